"""``gumbel_max``: draws from the softmax itself, with stated confidence."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from device import DEVICE
from scipy import stats
from softmax_draws import (
    CONFIDENCE,
    Given,
    batch_of,
    chi_square,
    draws_of,
    offered,
    seeded,
    softmax,
    unit,
)

from negplug import Negatives, Rows
from negplug.kernels.pool import tiled
from negplug.kernels.softmax_draws.tiled import invert
from negplug.objectives.logits import negative_term
from negplug.samplers.gumbel_max import GumbelMax


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiled, "_ROWS", 5)
    monkeypatch.setattr(tiled, "_COLUMNS", 4)


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.07, 1e-3])
@pytest.mark.parametrize("form", ["whole", "weighted", "masked", "chosen", "two parts"])
def test_draws_follow_the_softmax(form, temperature, small_tiles):
    batch = batch_of(6, temperature)
    # Nobody knows who anchor 1 is: rows without a name may be negatives of it.
    ids = batch.anchors.ids.where(torch.arange(len(batch.anchors), device=DEVICE) != 1, -1)
    batch = replace(batch, anchors=replace(batch.anchors, ids=ids, name=""))
    source = offered(batch, form)
    drawn = GumbelMax(4000, Given(*source)).sample(batch)
    rows = draws_of(drawn)
    assert all(len(row) == 4000 for row in rows)
    chi_square(zip(map(Counter, rows), softmax(batch, source), strict=True))


def test_draws_follow_the_softmax_of_a_large_pool():
    # Three tiles of the real size; columns are counted by fifties.
    batch = batch_of(2)
    source = (Negatives(Rows.unknown(unit(2500, 8))),)
    expected = []
    for row in softmax(batch, source):
        expected.append(Counter())
        for (_, column), p in row.items():
            expected[-1][column // 50] += p
    rows = draws_of(GumbelMax(10000, Given(*source)).sample(batch))
    counts = (Counter(column // 50 for _, column in row) for row in rows)
    chi_square(zip(counts, expected, strict=True))


def test_draws_and_anchors_are_independent(small_tiles, monkeypatch):
    # The same anchor over and over, two draws each: the pairs are of the product distribution,
    # and so are those of two anchors side by side.
    monkeypatch.setattr(tiled, "_ROWS", 500)
    batch, times = batch_of(3), 4000
    source = offered(batch, "whole")
    p = softmax(batch, source)[0]
    again = Rows(
        batch.anchors.embeddings[:1].expand(times, -1), batch.anchors.ids[:1].expand(times)
    )
    batch = replace(batch, anchors=again)
    rows = draws_of(GumbelMax(2, Given(*source)).sample(batch))
    pairs = {(a, b): p[a] * p[b] for a in p for b in p}
    chi_square([(Counter(map(tuple, rows)), pairs)])
    beside = [(rows[n][0], rows[n + 1][0]) for n in range(0, times, 2)]
    chi_square([(Counter(beside), pairs)])


@pytest.mark.parametrize("form", ["weighted", "two parts"])
def test_the_mean_gradient_is_that_of_the_log_sum_exp(form, small_tiles):
    number, batch = 20000, batch_of(5, 0.5, torch.float64)
    source = offered(batch, form, torch.float64)
    anchors = batch.anchors.embeddings.detach().requires_grad_()
    batch = replace(batch, anchors=batch.anchors.with_embeddings(anchors))
    pools = [part.rows.embeddings.requires_grad_() for part in source]
    drawn = GumbelMax(number, Given(*source)).sample(batch)
    found = torch.autograd.grad(
        negative_term(batch, drawn, batch.temperature).sum(), [anchors, *pools]
    )
    # Exact mean and variance of the gradient of one draw, from the probabilities.
    mean = [torch.zeros_like(x) for x in (anchors, *pools)]
    variance = [torch.zeros_like(x) for x in (anchors, *pools)]
    with torch.no_grad():
        for i, row in enumerate(softmax(batch, source)):
            for (part, column), p in row.items():
                mean[0][i] += p * pools[part][column] / batch.temperature
                variance[0][i] += p * (pools[part][column] / batch.temperature) ** 2
                pull = anchors[i] / batch.temperature
                mean[1 + part][column] += p * pull
                variance[1 + part][column] += p * (1 - p) * pull**2
        variance[0] -= mean[0] ** 2
    entries = sum(x.numel() for x in found)
    bound = stats.norm.ppf(1 - (1 - CONFIDENCE) / (2 * entries))
    for got, wanted, spread in zip(found, mean, variance, strict=True):
        assert (spread > 0).any()
        assert ((got - wanted).abs() <= bound * (spread / number).sqrt() + 1e-12).all()
    # That mean is the gradient of Σ_i log Σ_j w_ij exp(s_ij/τ).
    exact = negative_term(batch, source, batch.temperature).sum()
    for wanted, gradient in zip(mean, torch.autograd.grad(exact, [anchors, *pools]), strict=True):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inversion_at_the_ends_of_the_unit_interval(dtype):
    last = 1 - torch.finfo(dtype).eps / 2
    ends = torch.tensor([[0.0, 0.5 - torch.finfo(dtype).eps, 0.5, last]], dtype=dtype)
    logits = torch.full((1, 7), -torch.inf)
    logits[0, [1, 3, 4, 5]] = torch.tensor([1000.0, 850.0, 1000.0, 800.0])
    assert invert(logits, ends).tolist() == [[1, 1, 4, 4]]
    # Widely spread logits, a third of them excluded.
    logits = 30 * torch.randn(200, 1024, generator=seeded(0))
    logits[torch.rand(logits.shape, generator=seeded(1)) < 1 / 3] = -torch.inf
    uniform = torch.rand(200, 50, dtype=dtype, generator=seeded(2))
    uniform[:, 0], uniform[:, 1] = 0, last
    columns = invert(logits, uniform)
    p = logits.double().softmax(1)
    assert (p.gather(1, columns) > 0).all()
    above = p.cumsum(1).gather(1, columns)
    assert (above >= uniform - 1e-6).all()
    assert (above - p.gather(1, columns) <= uniform + 1e-6).all()
