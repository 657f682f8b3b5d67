"""Plugins, as distributions that are really installed and in processes of their own.

`tests/plugins_examples` holds three: `negplug-nearest`, a sampler; `negplug-toyhost`, an adapter
and an objective; `negplug-broken`, one module for each fault.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import subprocess
import textwrap
import types
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pluggy
import pytest
from distributions import CHECKOUT, install, python

from negplug.contract import hookspecs
from negplug.contract.hookspecs import AdapterSpec, ObjectiveSpec, SamplerSpec
from negplug.objectives import plugins as objectives
from negplug.plugins.manager import Plugins
from negplug.samplers import plugins as samplers

BROKEN = "(distribution negplug-broken 0.0.1)"

# Plugin → the stage at which it is left out, and why.
FAULTS = {
    "missing": ("import", "ModuleNotFoundError: No module named 'negplug_broken.there_is_no_"),
    "raises-at-import": ("import", "RuntimeError: the kernels were built for another torch"),
    "exits-at-import": ("import", "SystemExit: usage: exits_at_import FILE"),
    "exits-in-hook": ("registration", "SystemExit: no licence found"),
    "raises-in-hook": ("registration", "LookupError: no table of samplers"),
    "no-record": ("registration", "negplug_samplers must return SamplerSpec records, got 'stumb"),
    "returns-none": ("registration", "negplug_samplers must return an iterable of SamplerSpec, g"),
    "bad-factory": ("registration", "TypeError: 'Unbuildable' is not a callable object"),
    "unknown-hook": ("registration", "TypeError: implements unknown hook negplug_sampler; the h"),
    "no-hook": ("registration", "TypeError: implements no hook; mark one of negplug_samplers, "),
}

# Registered without complaint; their faults show later, or not at all.
LOADED = {"taken-name", "stumbles", "no-sampler"}

BUILT_IN = {module.__name__.rpartition(".")[2] for module in (*samplers, *objectives)}

OWN = {*BUILT_IN, "lightly", "solo-learn"}

HOOKS = {
    "negplug_samplers": SamplerSpec,
    "negplug_objectives": ObjectiveSpec,
    "negplug_adapters": AdapterSpec,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the site folders of the three distributions."""
    return {
        name: install(
            CHECKOUT / "tests" / "plugins_examples" / f"negplug_{name}",
            tmp_path_factory.mktemp(name),
        )
        for name in ("nearest", "toyhost", "broken")
    }


@pytest.fixture(scope="module")
def sites(installed: dict[str, Path]) -> tuple[Path, ...]:
    return tuple(installed.values())


@pytest.fixture(scope="module")
def listing(sites, tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """Run `negplug plugins --json` with all three installed."""
    here = tmp_path_factory.mktemp("listing")
    return succeeded(python("-m", "negplug", "plugins", "--json", sites=sites, cwd=here))


@pytest.fixture(scope="module")
def plugins_json(listing) -> dict[str, Any]:
    return json.loads(listing.stdout)


@pytest.fixture(scope="module")
def samplers_json(sites, tmp_path_factory) -> list[dict[str, str]]:
    """Return what `negplug samplers --json` prints with all three installed."""
    here = tmp_path_factory.mktemp("listing")
    done = succeeded(python("-m", "negplug", "samplers", "--json", sites=sites, cwd=here))
    return json.loads(done.stdout)


PROBE = """
import json, traceback, warnings
import torch
import negplug
from negplug_toyhost.host import PairLoss

def error_of(action):
    try:
        action()
    except Exception as error:
        return {
            "types": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            "cause": type(error.__cause__).__name__,
            "traceback": "".join(traceback.format_exception(error)),
        }

def train(sampler):
    z = torch.randn(2, 4, 8, requires_grad=True)
    loss_fn = negplug.ContrastiveLoss(sampler)
    loss_fn(*z).backward()
    loss_fn.end_step()
    loss_fn.state_dict()

facts = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        negplug.make_sampler("in_batch()")
        negplug.make_sampler("nearest(num_negatives=2)")
facts["warnings"] = [(warning.category.__name__, str(warning.message)) for warning in caught]

facts["make"] = {
    text: error_of(lambda: negplug.make_sampler(text))
    for text in (
        "nearst(num_negatives=2)", "xyz()", "uniform(num_negatives=2)", "half()", "unbuildable()",
        "nothing()", "nearest(num_negatives=2, similarity=3)",
    )
}
facts["train"] = {
    text: error_of(lambda: train(text))
    for text in ("stumbling()", "stumbling(late=True)", "empty()")
}

torch.manual_seed(0)
rows = torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=1)
ids = torch.tensor([5, 5, 2, -1, -1, 7, 2, 5, 7])
batch = negplug.ContrastiveBatch.from_ids(rows[:6], ids[:6], rows, ids)
sampler = negplug.make_sampler("nearest(num_negatives=8, similarity=-0.25)")
chosen = sampler(batch)
facts["nearest"] = {
    "rows": rows.tolist(), "ids": ids.tolist(), "similarity": -0.25,
    "columns": chosen.columns.tolist(), "mask": chosen.mask.tolist(),
    "expression": sampler.expression, "provider": str(sampler.provider),
}

host = PairLoss()
model = torch.nn.ModuleDict({"criterion": host})
queries, keys = torch.randn(2, 6, 4, dtype=torch.float64)
losses = {"before": host(queries, keys)}
for text in ("infonce()", "focal(gamma=0)", "focal(gamma=2.0)"):
    with negplug.inject(model, "in_batch()", text):
        losses[text] = host(queries, keys)
with negplug.inject(model, "nearest(num_negatives=2, similarity=1.0)"):
    losses["hardest two"] = host(queries, keys)
losses["after"] = host(queries, keys)
facts["toyhost"] = {name: float(loss) for name, loss in losses.items()}
facts["restored"] = "forward" not in vars(host)
normal = torch.nn.functional.normalize
facts["logits"] = (normal(queries, dim=1) @ normal(keys, dim=1).T / host.temperature).tolist()
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts(sites, tmp_path_factory) -> dict[str, Any]:
    """Return what one process with all three installed observes."""
    here = tmp_path_factory.mktemp("probe")
    return json.loads(succeeded(python("-c", PROBE, sites=sites, cwd=here)).stdout)


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


# --- found and listed ---------------------------------------------------------------------------


def test_every_plugin_is_listed_with_its_provenance_and_status(plugins_json):
    rows = plugins_json["plugins"]
    found = {(row["distribution"], row["name"]): (row["version"], row["status"]) for row in rows}
    assert len(found) == len(rows)
    assert found == {
        **{("negplug", name): (version("negplug"), "active") for name in OWN},
        **{("negplug-broken", name): ("0.0.1", "failed") for name in FAULTS},
        **{("negplug-broken", name): ("0.0.1", "active") for name in LOADED},
        ("negplug-nearest", "nearest"): ("1.2.3", "active"),
        ("negplug-toyhost", "toyhost"): ("0.4.0", "active"),
    }


def test_a_listed_plugin_shows_its_hooks(plugins_json):
    hooks = {row["name"]: row["hooks"] for row in plugins_json["plugins"]}
    assert hooks["nearest"] == ["negplug_samplers"]
    assert sorted(hooks["toyhost"]) == ["negplug_adapters", "negplug_objectives"]
    assert hooks["raises-in-hook"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_is_listed_with_stage_reason_and_traceback(plugins_json, name):
    (failure,) = [f for f in plugins_json["failures"] if f["plugin"] == name]
    stage, reason = FAULTS[name]
    assert (failure["distribution"], failure["version"]) == ("negplug-broken", "0.0.1")
    assert failure["stage"] == stage
    assert reason in failure["error"]
    assert failure["traceback"].startswith("Traceback (most recent call last)")
    assert failure["error"] in failure["traceback"]


def test_nothing_but_the_faults_is_listed_as_a_failure(plugins_json):
    assert {failure["plugin"] for failure in plugins_json["failures"]} == set(FAULTS)


# --- hooks --------------------------------------------------------------------------------------


def test_hook_negplug_samplers(samplers_json):
    (row,) = [row for row in samplers_json if row["name"] == "nearest"]
    assert row == {
        "kind": "sampler",
        "name": "nearest",
        "arguments": "num_negatives=…, similarity=0.5",
        "summary": "the nearest to a chosen similarity",
        "paper": "",
        "provider": "negplug-nearest 1.2.3",
    }


def test_hook_negplug_objectives(samplers_json, facts):
    (row,) = [row for row in samplers_json if row["name"] == "focal"]
    assert (row["kind"], row["provider"]) == ("objective", "negplug-toyhost 0.4.0")
    losses = facts["toyhost"]
    assert losses["focal(gamma=0)"] == pytest.approx(losses["infonce()"])
    assert 0 < losses["focal(gamma=2.0)"] < losses["infonce()"]


def test_hook_negplug_adapters(facts):
    losses, logits = facts["toyhost"], facts["logits"]
    assert losses["infonce()"] == pytest.approx(losses["before"])
    # One direction: row i against the two most similar rows that are not its partner.
    naive = []
    for i, row in enumerate(logits):
        negatives = sorted((s for j, s in enumerate(row) if j != i), reverse=True)[:2]
        total = sum(math.exp(s) for s in [row[i], *negatives])
        naive.append(math.log(total) - row[i])
    assert losses["hardest two"] == pytest.approx(sum(naive) / len(naive))
    assert losses["after"] == losses["before"]
    assert facts["restored"]


def test_the_hooks_are_the_specified_ones():
    marked = {name for name, value in vars(hookspecs).items() if hasattr(value, "negplug_spec")}
    assert marked == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    assert f"test_hook_{hook}" in globals()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_an_example_that_works(hook):
    documentation = inspect.getdoc(getattr(hookspecs, hook))
    _, found, example = documentation.partition("Example::\n")
    assert found
    plugin = types.ModuleType("example")
    vars(plugin).update(vars(hookspecs))
    # What an author brings along: the factories and functions that the examples name.
    vars(plugin).update(dict.fromkeys(("Nearest", "Margin", "find_losses", "report_methods"), list))
    before = set(vars(plugin)) - set(HOOKS)
    for specified in HOOKS:
        delattr(plugin, specified)
    exec(textwrap.dedent(example), vars(plugin))
    assert set(vars(plugin)) - before - {"__builtins__"} == {hook}
    manager = pluggy.PluginManager("negplug")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    (result,) = getattr(manager.hook, hook)()
    records = list(result)
    assert records
    assert all(type(record) is HOOKS[hook] for record in records)


# --- isolated -----------------------------------------------------------------------------------


def test_one_warning_for_each_failure_names_plugin_distribution_and_version(facts):
    assert {category for category, _ in facts["warnings"]} == {"PluginWarning"}
    messages = [message for _, message in facts["warnings"]]
    assert len(messages) == len(FAULTS)
    for name, (stage, reason) in FAULTS.items():
        (message,) = [m for m in messages if f"plugin {name} {BROKEN} failed at {stage}: " in m]
        assert reason in message


def test_the_sampler_works_beside_faulty_plugins(facts):
    """Against a naive loop: ids say who is whom, and -1 equals nothing."""
    got = facts["nearest"]
    rows, ids = got["rows"], got["ids"]
    for i, (columns, mask) in enumerate(zip(got["columns"], got["mask"], strict=True)):
        distance = {
            j: abs(sum(a * b for a, b in zip(rows[i], row, strict=True)) - got["similarity"])
            for j, row in enumerate(rows)
            if ids[i] == -1 or ids[j] != ids[i]
        }
        expected = sorted(distance, key=distance.__getitem__)[:8]
        assert [c for c, kept in zip(columns, mask, strict=True) if kept] == expected
    assert any(not kept for mask in got["mask"] for kept in mask)
    assert got["expression"] == "nearest(num_negatives=8, similarity=-0.25)"
    assert got["provider"] == "nearest (distribution negplug-nearest 1.2.3)"


def test_a_hook_that_fails_half_way_offers_nothing(facts, samplers_json):
    assert "unknown sampler 'half'" in facts["make"]["half()"]["message"]
    assert "half" not in {row["name"] for row in samplers_json}


# --- looked up ----------------------------------------------------------------------------------


def test_an_unknown_name_gives_close_names_and_every_failure(facts):
    error = facts["make"]["nearst(num_negatives=2)"]
    assert "ExpressionError" in error["types"]
    assert "ValueError" in error["types"]
    reason, text, carets = error["message"].split("\n")
    assert reason.startswith("unknown sampler 'nearst'; did you mean nearest?; plugin ")
    for name, (stage, _) in FAULTS.items():
        assert f"; plugin {name} {BROKEN} failed at {stage}: " in reason
    assert text == "    nearst(num_negatives=2)"
    assert carets == "    ^^^^^^"


def test_an_unknown_name_without_close_ones_gives_all(facts, samplers_json):
    known = sorted({row["name"] for row in samplers_json if row["kind"] == "sampler"})
    assert {"in_batch", "nearest", "stumbling", "uniform"} < set(known)
    reason = facts["make"]["xyz()"]["message"]
    assert reason.startswith(f"unknown sampler 'xyz'; there are {', '.join(known)}; plugin ")


def test_two_providers_of_a_name_clash_only_when_it_is_asked_for(facts, samplers_json):
    providers = [row["provider"] for row in samplers_json if row["name"] == "uniform"]
    assert providers == [f"negplug {version('negplug')}", "negplug-broken 0.0.1"]
    error = facts["make"]["uniform(num_negatives=2)"]
    assert "ExpressionError" in error["types"]
    assert error["message"].startswith(
        f"sampler 'uniform' is provided by uniform (distribution negplug {version('negplug')}) "
        f"and taken-name {BROKEN}; disable one with NEGPLUG_DISABLED_PLUGINS\n"
    )


def test_a_factory_that_builds_no_sampler_is_named(facts):
    error = facts["make"]["nothing()"]
    assert "TypeError" in error["types"]
    assert error["message"] == (
        f"nothing(): plugin no-sampler {BROKEN} gave NoneType, not NegativeSampler"
    )


def test_a_value_that_a_sampler_refuses_is_its_own_error(facts):
    error = facts["make"]["nearest(num_negatives=2, similarity=3)"]
    assert error["types"][0] == "ValueError"
    assert error["message"] == "nearest: similarity must be from -1 to 1, got 3"


# --- blocked, and strict ------------------------------------------------------------------------


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {row["name"]: row["status"] for row in json.loads(done.stdout)["plugins"]}


def test_an_import_of_the_broken_distribution_shows(listing):
    """What the tests below rely on when they see nothing."""
    lines = listing.stderr.splitlines()
    assert lines.count("negplug_broken is imported") == 1
    assert lines.count("negplug_broken.raises_at_import is imported") == 1


def test_a_disabled_distribution_is_not_even_imported(sites, tmp_path):
    done = python(
        *("-m", "negplug", "plugins", "--json"),
        sites=sites,
        cwd=tmp_path,
        NEGPLUG_DISABLED_PLUGINS="negplug-broken, nearest",
        NEGPLUG_STRICT="1",
    )
    # Strict: one faulty import and this would fail.
    found = statuses(succeeded(done))
    assert {name for name, status in found.items() if status == "disabled"} == {
        "nearest",
        *FAULTS,
        *LOADED,
    }
    assert "failed" not in found.values()
    assert found["toyhost"] == "active"
    assert "is imported" not in done.stderr


def test_a_disabled_plugin_leaves_the_others_of_its_distribution(sites, tmp_path):
    script = (
        "import negplug; print(negplug.make_sampler('uniform(num_negatives=2)').provider); "
        "negplug.make_sampler('stumbling()')"
    )
    done = succeeded(
        python(
            *("-c", script),
            sites=sites,
            cwd=tmp_path,
            NEGPLUG_DISABLED_PLUGINS="raises-at-import,taken-name",
        )
    )
    assert done.stdout == f"uniform (distribution negplug {version('negplug')})\n"
    assert "negplug_broken is imported" in done.stderr
    assert "raises_at_import is imported" not in done.stderr
    assert "raises-in-hook" in done.stderr


def test_without_autoload_only_negplugs_own_plugins_are_there(sites, tmp_path):
    command = ("-m", "negplug", "plugins", "--json")
    done = succeeded(python(*command, sites=sites, cwd=tmp_path, NEGPLUG_DISABLE_AUTOLOAD="1"))
    found = statuses(done)
    assert {name for name, status in found.items() if status == "active"} == OWN
    assert {name for name, status in found.items() if status == "disabled"} == {
        *("nearest", "toyhost"),
        *FAULTS,
        *LOADED,
    }
    assert "is imported" not in done.stderr


def test_strict_raises_the_first_failure(sites, tmp_path):
    done = python("-m", "negplug", "samplers", sites=sites, cwd=tmp_path, NEGPLUG_STRICT="1")
    assert done.returncode != 0
    first = min(FAULTS)
    stage, reason = FAULTS[first]
    assert f"PluginError: plugin {first} {BROKEN} failed at {stage}: {reason}" in done.stderr
    assert "direct cause" in done.stderr
    assert done.stdout == ""


# --- shadowed and damaged installations ---------------------------------------------------------


def dist_info(site: Path, name: str, entry_points: str, metadata: str | None) -> Path:
    folder = site / f"{name}.dist-info"
    folder.mkdir(parents=True)
    (folder / "entry_points.txt").write_text(f"[negplug]\n{entry_points}\n")
    if metadata is not None:
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}")
    return site


def test_the_first_of_two_versions_on_the_path_is_the_one(installed, tmp_path, monkeypatch):
    metadata = "Name: negplug-nearest\nVersion: 0.9\n"
    entries = "nearest = negplug_nearest\nwithdrawn = negplug_nearest.withdrawn"
    older = dist_info(tmp_path, "negplug_nearest-0.9", entries, metadata)
    monkeypatch.syspath_prepend(older)
    monkeypatch.syspath_prepend(installed["nearest"])
    listed = Plugins({"NEGPLUG_DISABLE_AUTOLOAD": "1"}).plugins
    found = [info for info in listed if info.distribution == "negplug-nearest"]
    assert [(info.name, info.version) for info in found] == [("nearest", "1.2.3")]


def test_an_installation_without_metadata_hurts_nobody(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(dist_info(tmp_path, "torn-1.0", "torn = torn", None))
    listed = Plugins({"NEGPLUG_DISABLE_AUTOLOAD": "1"}).plugins
    assert {info.name for info in listed if info.status == "active"} == OWN
    (torn,) = [info for info in listed if info.name == "torn"]
    assert (torn.distribution, torn.status) == ("unknown", "disabled")


# --- in training --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "where", "cause"),
    [
        ("stumbling()", "sample()", "ZeroDivisionError: stumbled over the batch"),
        ("stumbling(late=True)", "update()", "OverflowError: stumbled over the update"),
    ],
)
def test_an_error_in_a_step_names_the_plugin_and_keeps_the_cause(facts, sampler, where, cause):
    error = facts["train"][sampler]
    assert error["types"][0] == "PluginError"
    assert error["message"] == f"plugin stumbles {BROKEN} failed in {where}: {cause}"
    assert error["cause"] == cause.partition(":")[0]
    assert "stumbles.py" in error["traceback"]


def test_a_sampler_that_returns_no_negatives_is_named(facts):
    error = facts["train"]["empty()"]
    assert error["message"] == (
        f"plugin no-sampler {BROKEN} failed in sample(): TypeError: sample() must return "
        f"Negatives, got NoneType"
    )


# Recipes as users write them: they know nothing of negplug. Each defines `model`, which logs
# `train_nce_loss` and projects with `model.projector`, and `loader`.
LIGHTLY = """
from lightly.loss import NTXentLoss

class Recipe(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.projector = torch.nn.Linear(8, 4)
        self.criterion = NTXentLoss(temperature=0.2)
    def training_step(self, views, batch_idx):
        loss = self.criterion(*[self.projector(view) for view in views])
        self.log("train_nce_loss", loss, on_step=True, on_epoch=True)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

model = Recipe()
loader = torch.utils.data.DataLoader(
    [(torch.randn(8), torch.randn(8)) for _ in range(16)], batch_size=8
)
"""

SOLO = """
from solo.methods import SimCLR

model = SimCLR(
    proj_output_dim=16, proj_hidden_dim=32, temperature=0.2, supervised=False,
    encoder="resnet18", backbone_args={"zero_init_residual": True, "cifar": True},
    num_classes=3, no_labels=False, num_large_crops=2, num_small_crops=0,
    num_crops_per_aug=[2, 0], max_epochs=1, batch_size=8, accumulate_grad_batches=1,
    optimizer="sgd", extra_optimizer_args={"momentum": 0.9}, lars=False, lr=0.01, eta_lars=0.02,
    grad_clip_lars=False, exclude_bias_n_norm=False, weight_decay=0.0, classifier_lr=0.1,
    scheduler="none", min_lr=0.0, warmup_start_lr=0.0, warmup_epochs=0, lr_decay_steps=None,
    disable_knn_eval=True,
)
loader = torch.utils.data.DataLoader(
    [(i, [torch.randn(3, 32, 32) for _ in range(2)], i % 3) for i in range(16)], batch_size=8
)
"""

TRAIN = """
import json
import torch
try:
    import pytorch_lightning as pl
except ImportError:
    import lightning.pytorch as pl

torch.manual_seed(0)
{recipe}
class Record(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        views = [view.tolist() for view in projected[-2:]]
        loss = float(trainer.callback_metrics["train_nce_loss_step"])
        steps.append({{"views": views, "loss": loss}})

projected, steps = [], []
model.projector.register_forward_hook(lambda module, given, got: projected.append(got.detach()))
trainer = pl.Trainer(
    accelerator="cpu", devices=1, max_epochs=1, logger=False, callbacks=[Record()],
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(model, loader)
print(json.dumps(steps))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """Return a training script for the host that is installed."""
    if importlib.util.find_spec("lightly"):
        text = LIGHTLY
    elif solo_version() == "1.0.2":
        text = SOLO
    else:
        pytest.skip("needs lightly or solo-learn 1.0.2")
    script = tmp_path_factory.mktemp("recipe") / "recipe.py"
    script.write_text(TRAIN.format(recipe=text))
    return script


def solo_version() -> str | None:
    try:
        return version("solo-learn")
    except PackageNotFoundError:
        return None


def naive_loss(views: list[list[list[float]]], similarity: float | None) -> float:
    """Mean InfoNCE at τ = 0.2 against the three negatives nearest to `similarity`, or all."""
    rows = [row for view in views for row in view]
    rows = [[x / math.hypot(*row) for x in row] for row in rows]
    size = len(views[0])
    losses = []
    for i, anchor in enumerate(rows):
        cosine = [sum(a * b for a, b in zip(anchor, row, strict=True)) for row in rows]
        negatives = [cosine[j] for j in range(len(rows)) if j % size != i % size]
        if similarity is not None:
            negatives = sorted(negatives, key=lambda s: abs(s - similarity))[:3]
        positive = math.exp(cosine[(i + size) % len(rows)] / 0.2)
        total = positive + sum(math.exp(s / 0.2) for s in negatives)
        losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


def test_an_unmodified_recipe_trains_with_a_third_partys_sampler(recipe, installed, tmp_path):
    sampler = "nearest(num_negatives=3, similarity=0.1)"
    sites = (installed["nearest"],)
    done = succeeded(python(str(recipe), sites=sites, cwd=tmp_path, NEGPLUG_SAMPLER=sampler))
    steps = json.loads(done.stdout.splitlines()[-1])
    assert len(steps) == 2
    for step in steps:
        assert step["loss"] == pytest.approx(naive_loss(step["views"], 0.1), rel=1e-4)
        assert abs(step["loss"] - naive_loss(step["views"], None)) > 0.1
    assert "faulty plugin" not in done.stderr


def test_a_recipe_whose_sampler_fails_ends_with_the_plugins_name(recipe, installed, tmp_path):
    sites = (installed["broken"],)
    done = python(str(recipe), sites=sites, cwd=tmp_path, NEGPLUG_SAMPLER="stumbling()")
    assert done.returncode != 0
    cause = "ZeroDivisionError: stumbled over the batch"
    first, _, rest = done.stderr.rpartition(
        "The above exception was the direct cause of the following exception:"
    )
    assert "stumbles.py" in first
    assert cause in first
    assert f"PluginError: plugin stumbles {BROKEN} failed in sample(): {cause}" in rest
    # Each fault of the distribution was reported once, on the way.
    for name in FAULTS:
        assert done.stderr.count(f"without a faulty plugin: plugin {name} {BROKEN}") == 1
