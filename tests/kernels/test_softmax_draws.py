"""Draws from the softmax over a pool: those of loops, draw for draw."""

from __future__ import annotations

import pytest
import torch
from pool_draws import assert_drawn, by_loops, question

from negplug.kernels.pool import tiled
from negplug.kernels.softmax_draws import draws_of_logits, softmax_draws
from negplug.kernels.softmax_draws.tiled import tiled_draws

FORMS = ["plain", "own weights", "shared weights", "one weight", "masked"]


@pytest.mark.parametrize("kernel", [tiled_draws, softmax_draws])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tile", [(3, 7), (256, 2048)], ids=str)
def test_draws_are_those_of_loops(tile, form, kernel, monkeypatch):
    # Blocks of anchors, unlike tiles, change no draw.
    monkeypatch.setattr(tiled, "_ROWS", tile[0])
    monkeypatch.setattr(tiled, "_COLUMNS", tile[1])
    asked, weights = question(11, 40, 9, form)
    for seed, temperature in enumerate((1.0, 0.1, 1e-3)):
        found = kernel(*asked, temperature, 3, seed - 1, *weights)
        wanted = by_loops(*asked, temperature, 3, seed - 1, *weights, tile=tile[1])
        assert_drawn(found, wanted, 1e-6 / temperature)


def test_a_seed_is_a_stream_and_a_pool_may_be_empty():
    asked, _ = question(8, 60, 6, "plain")
    first, again, other = (softmax_draws(*asked, 0.3, 50, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.5
    a, k, anchor_ids, pool_ids = asked
    nothing = (a, k[:0], anchor_ids, pool_ids[:0])
    for columns, maxima in (
        softmax_draws(*nothing, 0.3, 4, 0),
        draws_of_logits(a[:, :0], 4, 0),
    ):
        assert not columns.any()
        assert (maxima == -torch.inf).all()


def test_draws_of_logits_are_those_of_the_pool_that_has_them():
    asked, _ = question(8, 60, 6, "plain")
    a, k, anchor_ids, pool_ids = asked
    pool_ids = torch.full_like(pool_ids, 99)
    found = softmax_draws(a, k, anchor_ids, pool_ids, 0.5, 20, 3)
    given = draws_of_logits(a @ k.T / 0.5, 20, 3)
    assert torch.equal(found[0], given[0])
    torch.testing.assert_close(found[1], given[1], rtol=0, atol=1e-5)
