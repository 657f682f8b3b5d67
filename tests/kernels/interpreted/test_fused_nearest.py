"""The nearest of a pool in Triton: columns, order, ties and what is missing, against loops."""

from __future__ import annotations

import os

import pytest
import torch
from nearest import assert_nearest, by_loops, question

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.nearest import NEAREST, fused, nearest_columns, tiled
from negplug.kernels.nearest.fused import Cut, fused_columns
from negplug.kernels.pool.cuts import Processors

WIDTHS = (1, 63, 64, 65, 128, 200, 256, 512, 1024)


@pytest.fixture
def many_processors(monkeypatch):
    monkeypatch.setattr(Processors, "of", lambda device: Processors(64, 2**18))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1), (5, 70, 3), (33, 130, 2), (17, 64, 1)], ids=str)
def test_columns_equal_loops(size, masked):
    rows, keys, count = size
    *asked, mask = question(rows, keys, 5, masked)
    assert_nearest(fused_columns(*asked, count, mask), by_loops(*asked, count, mask), count)


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_any_width(width):
    *asked, _ = question(9, 40, width)
    assert_nearest(fused_columns(*asked, 6), by_loops(*asked, 6), 6)


@pytest.mark.usefixtures("many_processors")
@pytest.mark.parametrize(("keys", "count", "masked"), [(1300, 3, True), (1111, 100, False)])
def test_parts_of_a_pool_are_merged(keys, count, masked):
    assert Cut.of(7, keys, count, torch.device("cpu")).parts > 1
    *asked, mask = question(7, keys, 6, masked)
    assert_nearest(fused_columns(*asked, count, mask), by_loops(*asked, count, mask), count)


def test_every_column_and_fewer_rows_than_are_wanted():
    a, k, anchor_ids, pool_ids, _ = question(6, 100, 4)
    assert_nearest(
        fused_columns(a, k, anchor_ids, pool_ids, 100),
        by_loops(a, k, anchor_ids, pool_ids, 100),
        100,
    )
    columns, there = fused_columns(a, k, torch.zeros_like(anchor_ids), 0 * pool_ids, 100)
    assert not there.any()
    assert not columns.any()
    assert fused_columns(a[:0], k, anchor_ids[:0], pool_ids, 3)[0].shape == (0, 3)


def test_one_mask_for_all_anchors_rows_in_any_layout_and_signed_zeros():
    a, k, anchor_ids, pool_ids, mask = question(8, 50, 6, masked=True)
    common = mask[1].expand(8, -1)
    wide = torch.cat([a, a], 1)[:, :6]
    found = fused_columns(wide, k.T.contiguous().T, anchor_ids, pool_ids, 4, common)
    assert_nearest(found, by_loops(a, k, anchor_ids, pool_ids, 4, common), 4)
    # 0 and −0 are equal.
    k = torch.tensor([[-0.0], [0.0], [-0.0], [-1.0]])
    columns, _ = fused_columns(torch.ones(1, 1), k, anchor_ids[:1], pool_ids[:4].fill_(9), 4)
    assert columns.tolist() == [[0, 1, 2, 3]]


def test_the_program_is_chosen_and_what_it_does_not_serve_is_not_its(monkeypatch):
    assert NEAREST.kernel(torch.device("cpu"), None) is fused_columns
    *asked, mask = question(6, 60, 8, masked=True)
    monkeypatch.setattr(fused, "_MOST", 4)
    monkeypatch.setattr(tiled, "_SORTED", 130)
    for count in (3, 5):
        assert_nearest(nearest_columns(*asked, count, mask), by_loops(*asked, count, mask), count)
    a, k = (rows.double() for rows in asked[:2])
    assert_nearest(nearest_columns(a, k, *asked[2:], 3), by_loops(*asked, 3), 3)
