"""The nearest of a pool: columns, order, ties and what is missing, against loops."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from nearest import assert_nearest, by_loops, question

from negplug.kernels.nearest import largest, nearest_columns
from negplug.kernels.nearest.reference import sorted_columns
from negplug.kernels.nearest.tiled import tiled_columns
from negplug.kernels.pool import tiled

KERNELS = {"tiled": tiled_columns, "reference": sorted_columns, "chosen": nearest_columns}


@pytest.fixture(params=[(256, 2048), (5, 4), (3, 64)], ids=str)
def tiles(request, monkeypatch):
    """Pools of one tile, and of many, of which one holds fewer columns than are wanted."""
    for name, size in zip(("_ROWS", "_COLUMNS"), request.param, strict=True):
        monkeypatch.setattr(tiled, name, size)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (9, 100, 3, 100), (20, 130, 16, 7)])
def test_kernels_equal_loops(size, kernel, masked):
    *shape, count = size
    *asked, mask = question(*shape, masked)
    assert_nearest(KERNELS[kernel](*asked, count, mask), by_loops(*asked, count, mask), count)


@pytest.mark.parametrize("backend", ["torch", "reference", None])
def test_a_forced_backend_answers_the_same(backend, monkeypatch):
    *asked, mask = question(12, 90, 8, masked=True)
    if backend is not None:
        monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    a, k = (rows.double().requires_grad_() for rows in asked[:2])
    found = nearest_columns(a, k, *asked[2:], 10, mask)
    assert_nearest(found, by_loops(*asked, 10, mask), 10)


def test_of_equal_values_the_earlier_are_the_largest():
    values = torch.tensor([[0.0, 2, 1, 2, 1, 1], [-torch.inf, 3, 1, 0, -torch.inf, -1]])
    values = values.to(DEVICE)
    for count in range(1, 9):
        found, place = largest(values, count)
        assert place[0].tolist() == [1, 3, 2, 4, 5, 0][:count]
        assert place[1, :4].tolist() == [1, 2, 3, 5][:count]
        assert torch.equal(values.gather(1, place), found)
    collapsed = torch.ones(3, 300, device=DEVICE)
    assert (largest(collapsed, 120)[1].cpu() == torch.arange(120)).all()
