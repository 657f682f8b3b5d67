"""Logarithms of sums over a pool: each kernel against the reference, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from torch.nn.functional import normalize

from negplug.kernels.pool import tiled
from negplug.kernels.pool.frozen import frozen_logsumexp
from negplug.kernels.pool.reference import full_logsumexp
from negplug.kernels.pool.reference import row_logsumexp as plain_row_logsumexp
from negplug.kernels.pool.rows import row_logsumexp
from negplug.kernels.pool.tiled import tiled_logsumexp


@pytest.mark.parametrize("kept", [0, 2**21])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "keys"), [(5, 3), (700, 2500), (3000, 200), (1, 1)])
def test_pools_equal_the_reference(rows, keys, weighted, kept, monkeypatch):
    monkeypatch.setattr(tiled, "_KEPT", kept)
    generator = torch.Generator().manual_seed(rows)
    draw = {"generator": generator, "dtype": torch.float64}
    a = normalize(torch.randn(rows, 16, **draw), dim=1).to(DEVICE).requires_grad_()
    k = normalize(torch.randn(keys, 16, **draw), dim=1).to(DEVICE).requires_grad_()
    ids = torch.randint(keys, (rows,), generator=generator).to(DEVICE)
    question = [ids, torch.arange(keys, device=DEVICE), 0.05]
    if weighted:
        mask = torch.rand(rows, keys, generator=generator) < 0.8
        mask[0] = False
        question += [torch.randn(rows, keys, **draw).to(DEVICE), mask.to(DEVICE)]
    wanted = full_logsumexp(a, k, *question)
    weights = torch.randn(rows, **draw).to(DEVICE)
    nothing = wanted == -torch.inf
    expected = torch.autograd.grad((wanted * weights)[~nothing].sum(), [a, k])
    found = tiled_logsumexp(a, k, *question)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    # Twice: what is kept for the first backward pass must outlive it.
    for _ in range(2):
        loss = (found * weights)[~nothing].sum()
        for one, other in zip(
            torch.autograd.grad(loss, [a, k], retain_graph=True), expected, strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    frozen = frozen_logsumexp(a, k.detach(), *question)
    torch.testing.assert_close(frozen, wanted, rtol=1e-12, atol=1e-12)
    (got,) = torch.autograd.grad((frozen * weights)[~nothing].sum(), [a])
    torch.testing.assert_close(got, expected[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kept", [0, 2**21])
@pytest.mark.parametrize("weight", [None, -200.0])
def test_a_row_of_low_logits_that_a_whole_tile_excludes_has_a_finite_gradient(
    weight, kept, monkeypatch
):
    # In float32 e^{−ℓ} is infinite; what the tile's row of zeros makes of it must not be NaN.
    monkeypatch.setattr(tiled, "_KEPT", kept)
    generator = torch.Generator().manual_seed(0)
    rows = torch.ones(2103, 8) + 0.1 * torch.randn(2103, 8, generator=generator)
    a, k = (
        normalize(rows[:3], dim=1).requires_grad_(),
        (-normalize(rows[3:], dim=1)).requires_grad_(),
    )
    pool_ids = torch.where(torch.arange(2100) < 2048, torch.arange(2100) + 10, 1)
    log_weight = None if weight is None else torch.full((1, 2100), weight)
    question = [torch.tensor([1, 2, 3]), pool_ids, 0.005, log_weight]
    exact = [x.detach().double().requires_grad_() for x in (a, k)]
    wanted = torch.autograd.grad(full_logsumexp(*exact, *question).sum(), exact)
    found = torch.autograd.grad(tiled_logsumexp(a, k, *question).sum(), [a, k])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=2e-3)


def test_a_pool_without_rows_leaves_the_anchors_a_gradient_of_zero():
    a, k = torch.randn(3, 4, requires_grad=True), torch.empty(0, 4, requires_grad=True)
    found = tiled_logsumexp(a, k, torch.arange(3), torch.empty(0, dtype=torch.int64), 0.1)
    assert (found == -torch.inf).all()
    ours, _ = torch.autograd.grad(found, [a, k], torch.ones(3))
    assert not ours.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_logits_equal_the_reference_and_rows_of_nothing_pass_no_gradient(dtype):
    logits = 100 * torch.randn(6, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    logits[1, :3] = logits[2:4] = -torch.inf
    logits = logits.to(DEVICE).requires_grad_()
    found, wanted = row_logsumexp(logits), plain_row_logsumexp(logits)
    torch.testing.assert_close(found, wanted)
    weights = torch.arange(1.0, 7.0, dtype=dtype, device=DEVICE)
    got, expected = (torch.autograd.grad(each, logits, weights)[0] for each in (found, wanted))
    torch.testing.assert_close(got, expected)
    assert (got[2:4] == 0).all()
