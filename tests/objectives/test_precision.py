"""Objectives at any temperature, on collapsed embeddings and in half precision."""

from __future__ import annotations

import naive
import pytest
import torch
from objective_loops import LOOPS, SAMPLERS

from negplug import ContrastiveLoss


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02, 1e-3])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_no_temperature_breaks_float32(objective, sampler, temperature, spread):
    z = [v.detach().float().requires_grad_() for v in naive.embeddings(2, 12, spread=spread)]
    loss = ContrastiveLoss(sampler, objective, temperature)(*z)
    assert loss.isfinite()
    assert naive.gradients(loss, z).isfinite().all()


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("temperature", [0.1, 1e-3])
def test_collapsed_embeddings_break_nothing(objective, temperature):
    z = [torch.ones(6, 4, requires_grad=True) for _ in range(2)]
    loss = ContrastiveLoss("in_batch()", objective, temperature)(*z)
    assert loss.isfinite()
    assert naive.gradients(loss, z).isfinite().all()


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_lose_nothing_more(objective, dtype):
    z = [v.detach().to(dtype).requires_grad_() for v in naive.embeddings(2, 12)]
    # rince() is e^{q/τ} large, which at a small temperature is beyond float16.
    temperature = 0.2 if objective.startswith("rince") else 0.02
    loss = ContrastiveLoss("in_batch()", objective, temperature)(*z)
    assert loss.dtype == torch.float32
    gradient = naive.gradients(loss, z)
    assert gradient.isfinite().all()
    exact = [v.detach().double().requires_grad_() for v in z]
    wanted = ContrastiveLoss("in_batch()", objective, temperature)(*exact)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=1e-4)
    assert naive.relative(gradient.double(), naive.gradients(wanted, exact)) < 1e-2
