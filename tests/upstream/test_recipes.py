"""solo-learn main's own scripts with its own CIFAR configurations, from a checkout of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import host_scripts
import pytest

SOURCE = host_scripts.checkout("solo")
BATCH = host_scripts.BATCH

# Method: sampler, its loss and the calls of it in a step, negatives of an anchor in the second step
# (past keys are of one step then, from every rank).
RECIPES = {
    "simclr": ("uniform(num_negatives=4)", {"simclr_loss_func": 1}, lambda world: 4),
    "supcon": (
        "stratified(num_negatives=4, by='labels', same=0.0)",
        {"simclr_loss_func": 1},
        lambda world: 4,
    ),
    "mocov2plus": ("queue()", {"mocov2plus_loss_func": 2}, lambda world: BATCH * world),
    "mocov3": ("gather()", {"mocov3_loss_func": 2}, lambda world: BATCH * world - 1),
    "nnclr": ("queue(size=64)", {"nnclr_loss_func": 2}, lambda world: BATCH * world),
    "all4one": ("hard(num_negatives=4)", {"nnclr_loss_func": 4}, lambda world: 4),
    "ressl": ("in_batch()", {"ressl_loss_func": 1}, lambda world: 65536),
}
RUNS = [
    *((name, "run", 1) for name in RECIPES),
    *((name, "environment", 2) for name in RECIPES),
    ("simclr", "environment", 1),
    ("simclr", "run", 2),
]


def hydra(script, configurations, name, *more):
    """Return a script and its arguments; solo-learn's account at W&B is not ours."""
    folder = SOURCE / "scripts" / configurations
    named = ("--config-path", str(folder), "--config-name", f"{name}.yaml")
    return SOURCE / script, *named, *more, "wandb.enabled=False"


def pretrain(folder, name, **how):
    return host_scripts.run(folder, *hydra("main_pretrain.py", "pretrain/cifar", name), **how)


@pytest.mark.parametrize(("name", "through", "world"), RUNS)
def test_a_recipe(tmp_path, name, through, world):
    sampler, calls, counts = RECIPES[name]
    done = pretrain(tmp_path, name, sampler=sampler, through=through, world=world)
    host_scripts.assert_treated(done.fits, world, calls, counts(world))
    _, saved = host_scripts.checkpoint(tmp_path)
    assert saved["callbacks"]["negplug"]["sampler"] == sampler
    assert set(saved["callbacks"]["negplug"]["losses"]) == set(calls)
    (logged,) = tmp_path.rglob("hparams.yaml")
    assert "negplug/sampler" in logged.read_text()


RECIPES_OF_OURS = Path(__file__).parents[2] / "benchmarks" / "recipes"
SETTINGS = {
    "uniform": "simclr",
    "filtered": "simclr",
    "queue": "mocov2plus",
    "stratified": "supcon",
    "bank": "nnclr",
    "hard": "mocov3",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    script = str(RECIPES_OF_OURS / "export_digits.py")
    sizes = ("--train-size", "128", "--val-size", "1")
    subprocess.run([sys.executable, script, str(folder), *sizes], check=True)
    return folder


def test_every_setting_is_tried():
    files = (RECIPES_OF_OURS / "solo" / "negatives").iterdir()
    assert {file.stem for file in files} == set(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_ours(tmp_path, digits, setting):
    """Negatives as a part of Hydra's configuration, and the embedded digits in place of CIFAR."""
    ours = ("--config-dir", str(RECIPES_OF_OURS / "solo"), "+embedded=digits")
    more = (*ours, f"+negatives={setting}", f"data.train_path={digits / 'train'}")
    script = hydra("main_pretrain.py", "pretrain/cifar", SETTINGS[setting], *more)
    done = host_scripts.run(tmp_path, *script, batch=64)
    _, calls, _ = RECIPES[SETTINGS[setting]]
    (fit,) = done.fits
    assert fit.calls == {name: 2 * number for name, number in calls.items()}
    file = RECIPES_OF_OURS / "solo" / "negatives" / f"{setting}.yaml"
    _, saved = host_scripts.checkpoint(tmp_path)
    assert f'"{saved["callbacks"]["negplug"]["sampler"]}"' in file.read_text()


def test_a_linear_evaluation_needs_no_negplug(tmp_path):
    pretrain(tmp_path, "mocov2plus", sampler="queue(size=16)")
    path, saved = host_scripts.checkpoint(tmp_path)
    assert saved["callbacks"]["negplug"]["sampler"] == "queue(size=16)"
    overrides = ("data.dataset=cifar10", "data.format=image_folder", "name=linear")
    overrides += (f"pretrained_feature_extractor='{path}'",)  # its name has a = in it
    script = hydra("main_linear.py", "linear/imagenet-100", "mocov2plus", *overrides)
    done = host_scripts.run(tmp_path, *script, without=host_scripts.NEGPLUG)
    assert [fit.model for fit in done.fits] == ["LinearModel"]
    _, evaluated = host_scripts.checkpoint(tmp_path, "linear-*.ckpt")
    for name, weight in saved["state_dict"].items():
        if name.startswith("backbone.") and name.endswith("weight"):
            assert evaluated["state_dict"][name].equal(weight)
