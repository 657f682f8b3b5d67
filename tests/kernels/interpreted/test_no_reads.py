"""On the path that a GPU takes, a steady training step reads nothing back from the device."""

from __future__ import annotations

import os

import pytest
import torch
from reads import Reads

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug import ContrastiveLoss

SAMPLERS = ["in_batch()", "gather()", "queue(size=96)"]
SAMPLERS += ["uniform(num_negatives=5)", "hard(num_negatives=5)"]
CHAINS = [
    f"{name}(size=64, out_of_batch={option!r})"
    for name in ("emc2", "isir")
    for option in ("cached", "drop")
]
OBJECTIVES = ["infonce()", "decoupled()", "debiased(tau_plus=0.1)"]


CASES = [(sampler, objective) for sampler in SAMPLERS for objective in OBJECTIVES]
# Draws from the softmax do not estimate a denominator.
CASES += [(sampler, "infonce()") for sampler in CHAINS]


@pytest.mark.parametrize(("sampler", "objective"), CASES)
def test_a_steady_step_reads_nothing(sampler, objective):
    loss_fn = ContrastiveLoss(sampler, objective)
    draw = {"generator": torch.Generator().manual_seed(0)}
    for step in range(4):
        z = torch.randn(2, 32, 16, **draw).requires_grad_()
        indexes = torch.randperm(64, **draw)[:32]
        labels = torch.randint(5, (32,), **draw)
        with Reads() as reads:
            loss_fn(*z, indexes=indexes, labels=labels).backward()
            loss_fn.end_step()
        assert step < 2 or reads.found == []


def test_reads_are_found():
    values = torch.arange(3.0)
    with Reads() as reads:
        float(values.sum())
        values[values > 1]
        values.nonzero()
        values.unique()
    assert len(reads.found) == 4
