"""The stand-in for solo-learn main against a checkout of the real one, NEGPLUG_SOLO_SOURCE."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
STANDINS = HERE.parent
SUPPORT = STANDINS.parent / "support"

FUNCTIONS = ["simclr", "mocov2plus", "mocov3", "nnclr", "ressl"]
METHODS = ["SimCLR", "SupCon", "MoCoV2Plus", "MoCoV3", "NNCLR", "All4One", "ReSSL"]


def probe(package, *arguments):
    """Run the probe with the ``solo`` in the folder ``package``, ahead of any other."""
    path = (package, SUPPORT, os.environ.get("PYTHONPATH"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(p) for p in path if p)}
    environment.pop("NEGPLUG_SAMPLER", None)
    command = [sys.executable, str(HERE / "solo_probe.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = torch.load(arguments[0], weights_only=False)
    assert Path(found["file"]).is_relative_to(package)
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the stand-in and the real one found."""
    source = os.environ.get("NEGPLUG_SOLO_SOURCE")
    if not source:
        pytest.skip("NEGPLUG_SOLO_SOURCE names no checkout of solo-learn main")
    # What the real one imports; an environment of another host has neither.
    for needed in ("omegaconf", "timm", "lightning"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"solo-learn main needs {needed}, which is not installed")
    folder = tmp_path_factory.mktemp("probes")
    mine = probe(STANDINS, folder / "mine")
    return mine, probe(Path(source).resolve(), folder / "theirs", folder / "mine")


def assert_close(mine, theirs):
    if mine is None or theirs is None:
        # A momentum key has no gradient in a step; whether it could have is no matter.
        assert mine is theirs
    else:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_the_real_one(both, name):
    mine, theirs = (found["functions"][name] for found in both)
    assert mine["signature"] == theirs["signature"]
    runs = [(mine, theirs)]
    runs += [(m[name], t[name]) for m, t in zip(*(f["on ranks"] for f in both), strict=True)]
    for ours, real in runs:
        assert_close(ours["value"], real["value"])
        assert real["value"] != 0
        for one, other in zip(ours["gradients"], real["gradients"], strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_real_one(both, name):
    mine, theirs = (found["methods"][name] for found in both)
    # The real ones register the place code of All4One, and BatchNorm's counters are no weights.
    assert set(mine["weights"]) == {k for k in theirs["weights"] if not k.startswith("pos_enc.")}
    for key, value in mine["weights"].items():
        assert torch.equal(value, theirs["weights"][key])
    assert set(mine["logged"]) <= set(theirs["logged"])
    for ours, real in zip(mine["steps"]["losses"], theirs["steps"]["losses"], strict=True):
        assert_close(ours, real)
    for ours, real in zip(mine["steps"]["gradients"], theirs["steps"]["gradients"], strict=True):
        assert set(ours) == set(real)
        for key, gradient in ours.items():
            assert_close(gradient, real[key])
    assert set(mine["steps"]["queue"]) == set(theirs["steps"]["queue"])
    for key, rows in mine["steps"]["queue"].items():
        assert_close(rows, theirs["steps"]["queue"][key])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "All4One"])
def test_the_optimizer_has_the_same_groups(both, name):
    mine, theirs = (found["methods"][name]["groups"] for found in both)
    assert mine == theirs
