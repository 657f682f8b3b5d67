"""Draws from the softmax over a pool in Triton: those of loops and of torch, draw for draw."""

from __future__ import annotations

import os

import pytest
import torch
from pool_draws import assert_drawn, by_loops, question

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.pool import tiled
from negplug.kernels.pool.cuts import Processors
from negplug.kernels.softmax_draws import SOFTMAX_DRAWS, fused
from negplug.kernels.softmax_draws.fused import fused_draws
from negplug.kernels.softmax_draws.tiled import tiled_draws

FORMS = ["plain", "own weights", "shared weights", "one weight", "masked"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0])
def test_draws_are_those_of_loops(temperature, form):
    asked, weights = question(19, 70, 9, form)
    found = fused_draws(*asked, temperature, 3, 12345, *weights)
    wanted = by_loops(*asked, temperature, 3, 12345, *weights, tile=2048)
    assert_drawn(found, wanted, 2e-6 + 1e-6 / temperature)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [1, 64])
def test_tiles_in_parts_are_merged(number, form, monkeypatch):
    monkeypatch.setattr(tiled, "_COLUMNS", 24)
    monkeypatch.setattr(Processors, "of", lambda device: Processors(number, 2**18))
    asked, weights = question(20, 110, 6, form)
    found = fused_draws(*asked, 0.2, 2, -7, *weights)
    assert_drawn(found, by_loops(*asked, 0.2, 2, -7, *weights, tile=24))


@pytest.mark.parametrize("count", [1, 5, 100])
def test_any_number_of_draws(count, monkeypatch):
    monkeypatch.setattr(fused, "_DRAWS", 32)
    asked, weights = question(3, 50, 4, "masked")
    found = fused_draws(*asked, 0.2, count, 2**62, *weights)
    assert_drawn(found, by_loops(*asked, 0.2, count, 2**62, *weights, tile=2048))


@pytest.mark.parametrize("width", [1, 63, 64, 65, 128, 200, 256, 512, 1024])
def test_rows_of_any_width(width):
    asked, _ = question(9, 40, width, "plain")
    found, wanted = (draw(*asked, 0.1, 4, 0) for draw in (fused_draws, tiled_draws))
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=1e-5)


def test_a_seed_on_the_device_no_anchors_and_no_pool():
    asked, _ = question(5, 30, 4, "plain")
    a, k, anchor_ids, pool_ids = asked
    here = fused_draws(*asked, 0.2, 6, -(2**63))
    there = fused_draws(*asked, 0.2, 6, torch.tensor(-(2**63)))
    assert all(map(torch.equal, here, there))
    assert fused_draws(a[:0], k, anchor_ids[:0], pool_ids, 0.2, 6, 0)[0].shape == (0, 6)
    columns, maxima = fused_draws(a, k[:0], anchor_ids, pool_ids[:0], 0.2, 6, 0)
    assert not columns.any()
    assert (maxima == -torch.inf).all()


def test_a_column_without_a_share_is_never_drawn():
    a = torch.ones(60, 1)
    k, pool_ids = torch.ones(130, 1), torch.zeros(130, dtype=torch.int64)
    pool_ids[[3, 70]] = 1
    columns, _ = fused_draws(a, k, torch.zeros(60, dtype=torch.int64), pool_ids, 0.1, 16, 4)
    assert set(columns.unique().tolist()) == {3, 70}
    assert abs((columns == 3).double().mean() - 0.5) < 0.06


def test_the_program_is_chosen_and_float64_is_left_to_torch():
    assert SOFTMAX_DRAWS.kernel(torch.device("cpu"), None) is fused_draws
    (a, k, *ids), _ = question(5, 30, 4, "plain")
    found = fused_draws(a.double(), k.double(), *ids, 0.2, 6, 1)
    assert_drawn(found, by_loops(a, k, *ids, 0.2, 6, 1, None, None, tile=2048))
