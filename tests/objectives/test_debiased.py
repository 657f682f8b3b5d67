"""``debiased``: its estimate where the correction is large, and without a correction."""

from __future__ import annotations

import naive
import pytest
import torch
from objective_loops import SAMPLERS, assert_equal, debiased_loop, unit_rows

from negplug import ContrastiveBatch, ContrastiveLoss, Negatives, make_objective, make_sampler


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_estimate_is_held_where_the_correction_is_too_large(beta):
    z = naive.embeddings(2, 8, spread=0.7)
    rows = unit_rows(z)
    batch = ContrastiveBatch.from_views(tuple(z))
    positives = [[(i + 8) % 16] for i in range(16)]
    negatives = [[(rows[k], 1.0) for k in range(16) if (k - i) % 8] for i in range(16)]
    held = []
    reference = debiased_loop(rows, positives, negatives, 1.0, 0.5, beta, held)
    assert set(held) == {"below 0", "held", "free"}
    drawn = make_sampler("in_batch()").sample(batch)
    ours = make_objective(f"debiased(tau_plus=0.5, beta={beta})")(batch, drawn, 1.0)
    assert_equal(ours, reference, z)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_debiased_without_correction_and_preference_is_infonce(sampler, views, temperature):
    z = naive.embeddings(views, 8)
    plain = ContrastiveLoss(sampler, "infonce(positives='each')", temperature, seed=0)(*z)
    ours = ContrastiveLoss(sampler, "debiased(tau_plus=0, beta=0)", temperature, seed=0)(*z)
    torch.testing.assert_close(ours, plain, rtol=1e-13, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(plain, z)) < 1e-13


def test_a_vanishing_preference_is_none():
    z = naive.embeddings(2, 8)
    ours = ContrastiveLoss(objective="debiased(beta=1e-9)", temperature=0.2)(*z)
    plain = ContrastiveLoss(objective="debiased()", temperature=0.2)(*z)
    torch.testing.assert_close(ours, plain, rtol=1e-7, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(plain, z)) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1e-3])
def test_gradients_are_finite_around_the_point_where_the_estimate_is_zero(dtype, temperature):
    # R = N e^{s/τ} equals τ⁺ N e^{s⁺/τ} at s⁺ = s + τ log 2: 401 anchors, a rounding step apart.
    step = torch.finfo(dtype).eps / 4
    similarity = 0.5 + temperature * torch.log(torch.tensor(2.0, dtype=dtype))
    similarity = similarity + step * torch.arange(-200, 201, dtype=dtype)
    keys = torch.stack([similarity, (1 - similarity**2).sqrt()], dim=1).requires_grad_()
    anchors = torch.tensor([[1.0, 0.0]], dtype=dtype).repeat(401, 1).requires_grad_()
    pool = torch.tensor([[0.5, 0.75**0.5]], dtype=dtype)
    ids = torch.arange(401)
    batch = ContrastiveBatch(anchors, keys, ids, ids, ids[:, None])
    drawn = Negatives(pool, torch.tensor([-1]))
    losses = make_objective("debiased(tau_plus=0.5)")(batch, drawn, temperature)
    assert losses.isfinite().all()
    assert naive.gradients(losses.sum(), [anchors, keys]).isfinite().all()
