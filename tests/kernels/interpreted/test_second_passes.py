"""A backward pass after the memory that it needs was written to is an error, as of torch."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug import ContrastiveLoss

MEMORIES = [
    "synthetic(num_mixed=3, num_hardest=2, source=memory_bank(size=8))",
    "memory_bank(num_negatives=4, size=8)",
    "queue(size=16)",
    "emc2(size=8)",
]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("sampler", MEMORIES)
def test_a_pass_after_its_memory_was_written_to(sampler, backend, monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    loss_fn = ContrastiveLoss(sampler, seed=3)
    for step in range(3):
        views = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(step))
        views = [view.clone().requires_grad_() for view in views.unbind()]
        loss = loss_fn(*views, indexes=torch.arange(8).roll(step))
        loss.backward(retain_graph=True)
        before = views[0].grad.clone()
        loss_fn.end_step()
    views[0].grad = None
    refused = ""
    try:
        loss.backward()
    except RuntimeError as error:
        refused = str(error)
    # Or what it needed was no memory's.
    same = views[0].grad is not None and torch.equal(views[0].grad, before)
    assert same or "modified by an inplace operation" in refused
