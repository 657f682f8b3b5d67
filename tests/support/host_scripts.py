"""A host's own scripts, from a checkout of the host, run unmodified in processes of their own.

The folder ``tests/upstream/substitute`` on their ``PYTHONPATH`` puts a few random images in place
of CIFAR and ends a training after two steps; its docstring says what a script finds different.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SUBSTITUTE = Path(__file__).parents[1] / "upstream" / "substitute"
BATCH = 8
"""Images of a rank in each step."""
NEGPLUG = ("negplug", "negplug_adapters", "negplug_lightly", "negplug_solo")
"""What is absent where negplug is not installed: its distribution and its packages."""


class Fit(NamedTuple):
    """What a rank saw of one ``Trainer.fit``.

    Attributes:
        model: Class of the module.
        rank: Which rank, from 0.
        world: Number of ranks.
        steps: Optimizer steps.
        weights: Sum of the absolute values of all parameters, equal on ranks that are in step.
        calls: Calls of every loss that negplug treated; empty if it left the module alone.
        logged: What negplug logged.
    """

    model: str
    rank: int
    world: int
    steps: int
    weights: float
    calls: dict[str, int]
    logged: dict[str, float]


class Outcome(NamedTuple):
    """What a script printed, and its fits in order of rank."""

    output: str
    fits: list[Fit]


def checkout(host: str) -> Path:
    """Return the checkout of ``"lightly"`` or ``"solo"``; skip the module if there is none."""
    variable = f"NEGPLUG_{host.upper()}_SOURCE"
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"{variable} names no checkout of the host", allow_module_level=True)
    # solo-learn's scripts import it from their own folder; so what main needs tells of its place.
    for needed in {"lightly": ("lightly",), "solo": ("hydra", "timm")}[host]:
        pytest.importorskip(needed)
    return Path(named).resolve()


def run(
    folder: Path,
    script: Path,
    *arguments: str,
    sampler: str | None = None,
    through: str = "run",
    world: int = 1,
    without: tuple[str, ...] = (),
    batch: int = BATCH,
) -> Outcome:
    """Run a script to its end, in ``folder``; fail with its output if it fails.

    Args:
        folder: Working directory of the script.
        script: The script.
        *arguments: Its command line.
        sampler: A sampler expression; None for the host untouched.
        through: ``"run"`` for ``negplug run``, ``"environment"`` for ``NEGPLUG_SAMPLER``.
        world: Number of ranks that each Trainer has.
        without: Distributions, with modules of their names, that are to be absent.
        batch: Images of a rank in each step.
    """
    record = folder / "record.jsonl"
    record.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(SUBSTITUTE), os.getenv("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "LIGHTLY_DID_VERSION_CHECK": "True",  # it asks a server otherwise
        "UPSTREAM_BATCH": str(batch),
        "UPSTREAM_DEVICES": str(world),
        "UPSTREAM_RECORD": str(record),
        "UPSTREAM_WITHOUT": ",".join(without),
    }
    environment.pop("NEGPLUG_SAMPLER", None)
    command = [sys.executable]
    if sampler is not None and through == "run":
        command += ["-m", "negplug", "run", "--sampler", sampler]
    elif sampler is not None:
        environment["NEGPLUG_SAMPLER"] = sampler
    done = subprocess.run(
        [*command, str(script), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    lines = record.read_text().splitlines() if record.exists() else []
    fits = [Fit(**json.loads(line)) for line in lines]
    return Outcome(done.stdout, sorted(fits, key=lambda fit: fit.rank))


def checkpoint(folder: Path, pattern: str = "*.ckpt") -> Any:
    """Return the path of the one checkpoint below ``folder``, and what it holds."""
    import torch

    (path,) = folder.rglob(pattern)
    return path, torch.load(path, weights_only=True)


def assert_treated(fits: list[Fit], world: int, calls: dict[str, int], counts: float) -> None:
    """Assert that every rank made two steps, each with that many calls and negatives."""
    found = [(fit.rank, fit.world, fit.steps) for fit in fits]
    assert found == [(rank, world, 2) for rank in range(world)]
    for fit in fits:
        assert fit.calls == {name: 2 * number for name, number in calls.items()}
        logged = {name: v for name, v in fit.logged.items() if name.endswith("/num_negatives")}
        assert logged == {f"negplug/{name}/num_negatives": counts for name in calls}
        assert fit.weights == fits[0].weights
