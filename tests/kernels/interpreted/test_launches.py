"""How many launches a steady training step takes on the path of a GPU."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from launches import launches

from negplug import ContrastiveLoss
from negplug.kernels import choice

# Of a forward pass, a backward pass and what the sampler remembers.
BUDGETS = {
    "in_batch()": 20,
    "uniform(num_negatives=5)": 25,
    "uniform(num_negatives=5, shared=True)": 35,
    "queue(size=1024)": 25,
    "memory_bank()": 32,
    "hard(num_negatives=10)": 25,
    "gumbel_max(num_negatives=1)": 30,
    "emc2()": 70,
    "isir()": 70,
}


@pytest.fixture(autouse=True)
def no_loops(monkeypatch):
    """No GPU runs loops compiled for the CPU, which would count for nothing."""
    failure = {"numba": "hidden"}.get
    monkeypatch.setattr(choice, "_import_failure", failure)
    choice.able.cache_clear()
    yield
    choice.able.cache_clear()


def third_step(sampler: str) -> int:
    # The interpreter takes its time, and the number depends on no size but the host's.
    size = 256 if sampler == "in_batch()" else 48
    draw = torch.Generator().manual_seed(0)
    loss_fn = ContrastiveLoss(sampler)
    for _ in range(3):
        z = torch.randn(2, size, 128, generator=draw).unbind()
        views = [view.clone().requires_grad_() for view in z]
        names = {
            "indexes": torch.randperm(1024, generator=draw)[:size],
            "labels": torch.randint(5, (size,), generator=draw),
        }
        with launches() as found:
            loss_fn(*views, **names).backward()
            loss_fn.end_step()
    return found.total()


@pytest.mark.parametrize(("sampler", "budget"), BUDGETS.items())
def test_a_steady_step_keeps_to_its_budget(sampler, budget):
    assert third_step(sampler) <= budget


def test_operations_that_write_are_counted_and_views_are_not():
    values = torch.arange(6.0)
    with launches() as found:
        values.view(2, 3).T.unsqueeze(0).add_(1.0)
        torch.empty_like(values).copy_(values)
    assert found == {"add_": 1, "copy_": 1}
