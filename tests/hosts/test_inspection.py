"""An inspection of a checkpoint: the next step's draws, no step trained, nothing written else."""

from __future__ import annotations

from pathlib import Path

import hosts
import pytest
import torch
from moments import callback

from negplug.diagnostics.saved.file import read_checkpoint
from negplug.diagnostics.saved.states import treatments_in
from negplug.hosts.trainer import inspection

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore")

LIMITS = (3, 5)


class Saving(hosts.lightning().Callback):
    """Saves at the end of the first epoch, as ``ModelCheckpoint`` may."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


class Failing(hosts.lightning().Callback):
    """A recipe's own, which an inspection has no use for."""

    def on_train_start(self, trainer, pl_module):
        raise AssertionError("a callback of the recipe ran")


@pytest.fixture(autouse=True)
def _over(monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")  # numba would compile first
    yield
    inspection.ask(None)


def fit(*callbacks, module=None, **settings):
    trainer = hosts.trainer(callbacks=[*callbacks], limit_train_batches=1, **settings)
    trainer.fit(module or hosts.recipe(), hosts.loader())


def trained(path, *controls):
    """Train two epochs of one step, the same batch; return the second step's sheets."""
    hosts.lightning().seed_everything(3)
    sheet = callback("ContactSheet", *LIMITS, every=1, directory=path.parent / "sheets")
    kept = []
    sheet._keep_written = lambda page, sheet: kept.append(sheet)
    fit(*controls, sheet, Saving(path), max_epochs=2)
    return kept[len(kept) // 2 :]


def inspected(path, *callbacks, module=None, **settings):
    """Inspect a checkpoint; return the pages and their sheets."""
    content = read_checkpoint(path)
    treatments = tuple(treatments_in(content))
    out = path.parent / "out"
    asked = inspection.Asked(path.name, content, treatments, out, *LIMITS)
    inspection.ask(asked)
    hosts.lightning().seed_everything(4)  # of a process of its own
    with pytest.raises(SystemExit) as leaving:
        fit(*callbacks, module=module, **settings)
    assert leaving.value.code == 0
    return asked.written


def same_draws(sheet, other):
    assert len(sheet.strips) == len(other.strips) == LIMITS[0]
    for one, two in zip(sheet.strips, other.strips, strict=True):
        assert one.draws.anchor == two.draws.anchor
        for mine, theirs in zip(one.draws.negatives, two.draws.negatives, strict=True):
            assert (mine.rows, mine.times) == (theirs.rows, theirs.times)
            assert mine.similarity == pytest.approx(theirs.similarity, abs=1e-5)
            assert mine.share == pytest.approx(theirs.share, abs=1e-5)


@pytest.mark.parametrize(
    ("sampler", "compose"),
    [
        ("uniform(num_negatives=5)", None),
        ("queue(size=16)", None),
        ("emc2()", None),
        ("uniform(num_negatives=5)", "random_walk()"),
    ],
)
def test_it_shows_what_the_next_step_is_given(tmp_path, sampler, compose):
    path = tmp_path / "last.ckpt"
    control = hosts.negative_control()(sampler, temperature=0.3, compose=compose)
    (expected,) = trained(path, control)
    assert [each.compose for each in treatments_in(read_checkpoint(path))] == [compose]
    module = hosts.recipe()
    ((page, sheet),) = inspected(path, Failing(), module=module, max_epochs=1)
    same_draws(sheet, expected)
    assert sheet.title == f"{hosts.site_name()} with {sampler}, epoch 0, step 1 of last.ckpt"
    assert {each.name for each in page.parent.iterdir()} == {page.name, f"{page.stem}.png"}
    saved = read_checkpoint(path)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_recipe_that_treats_itself_stays_treated_so(tmp_path):
    path = tmp_path / "last.ckpt"
    sampler = {hosts.site_name(): "uniform(num_negatives=4)"}
    (expected,) = trained(path, hosts.negative_control()(sampler))
    ((_, sheet),) = inspected(path, hosts.negative_control()(sampler))
    same_draws(sheet, expected)
    with pytest.raises(ValueError, match="a sampler for each loss, which only a recipe"):
        fit()


def test_nothing_is_logged_or_saved(tmp_path):
    path = tmp_path / "last.ckpt"
    trained(path, hosts.negative_control()("in_batch()"))
    run = tmp_path / "run"
    settings = {"default_root_dir": run, "logger": True, "enable_checkpointing": True}
    ((page, _),) = inspected(path, **settings)
    assert page.exists()
    assert not [each for each in Path(run).rglob("*") if each.is_file()]


def test_another_treatment_or_data_set_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    trained(path, hosts.negative_control()("emc2()"))
    content = read_checkpoint(path)
    asked = inspection.Asked(path.name, content, tuple(treatments_in(content)), tmp_path, *LIMITS)
    inspection.ask(asked)
    with pytest.raises(ValueError, match=r"written with the sampler emc2\(\), this run has in_b"):
        fit(hosts.negative_control()("in_batch()"))
    with pytest.raises(ValueError, match="keeps state under data set indexes of Pairs of 24"):
        hosts.trainer().fit(hosts.recipe(), hosts.loader(size=32))
    assert not asked.written
