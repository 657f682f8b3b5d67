"""Chains in float64 on the path of a GPU, whose programs take their numbers in float32."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from launches import launches

from negplug import ContrastiveLoss

ROUNDING = {"scores_of_samples", "weights_of_views", "logits_of_states", "products_of_rows"}
"""Programs that take a temperature or the logarithm of a number, on a GPU in float32."""


def gradients(expression):
    loss_fn = ContrastiveLoss(expression, temperature=0.07, seed=3)
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(3):
        z = torch.randn(3, 6, 8, generator=draw, dtype=torch.float64).requires_grad_()
        loss = loss_fn(*z, indexes=torch.randperm(12, generator=draw)[:6])
        found += [loss.detach()[None], *torch.autograd.grad(loss, z)[0].flatten(0, 1)]
        loss_fn.end_step()
    return torch.cat(found)


@pytest.mark.parametrize("expression", ["emc2(size=12)", "isir(size=12)"])
def test_chains_are_as_exact_as_in_torch(expression, monkeypatch):
    with launches() as programs:
        found = gradients(expression)
    assert not ROUNDING & set(programs)
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    torch.testing.assert_close(found, gradients(expression), rtol=1e-12, atol=1e-13)
