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


@pytest.mark.parametrize("saved", [False, True])
def test_a_bank_that_resumes_asks_for_the_same(saved):
    """Programs with a mask and without need not compute the same to the last bit."""
    views = [torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    indexes = torch.arange(12)

    def call(loss_fn, step):
        with launches() as found:
            loss = loss_fn(*views[step].clone().requires_grad_(), indexes=indexes)
        return found, loss

    straight, other = (ContrastiveLoss("memory_bank(size=64)", seed=0) for _ in range(2))
    for loss_fn in (straight, other):
        for step in range(2):
            call(loss_fn, step)[1].backward()
            loss_fn.end_step()
    state = other.state_dict()
    if not saved:  # but loaded
        other = ContrastiveLoss("memory_bank(size=64)", seed=0)
        other.load_state_dict(state)
    (wanted, loss), (found, resumed) = call(straight, 2), call(other, 2)
    assert found == wanted
    assert torch.equal(loss, resumed)
