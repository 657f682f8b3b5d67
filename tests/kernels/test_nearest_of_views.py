"""The nearest of a pool to any of several rows, against a loop over its equation."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from nearest import question

from negplug.kernels.nearest import views
from negplug.kernels.nearest.views import nearest_of_views
from negplug.kernels.pool import tiled

KERNELS = {
    "merged": views.merged_columns,
    "joint": views.joint_columns,
    "reference": views.sorted_scores,
    "chosen": nearest_of_views,
}


@pytest.fixture(params=[(256, 2048), (5, 4)], ids=str)
def tiles(request, monkeypatch):
    for name, size in zip(("_ROWS", "_COLUMNS"), request.param, strict=True):
        monkeypatch.setattr(tiled, name, size)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("number", "count"), [(1, 4), (2, 5), (3, 40)])
def test_kernels_equal_a_loop(number, count, kernel, masked):
    anchors, pool, ids, pool_ids, mask = question(9, 40, 3, masked)
    support = [anchors, *(anchors.roll(shift, 0) for shift in range(1, number))]
    scores, columns = KERNELS[kernel](support, pool, ids, pool_ids, count, mask)
    assert scores.shape == columns.shape == (9, count)
    for row in range(9):
        found = {
            column: max(float(rows[row] @ pool[column]) for rows in support)
            for column in range(40)
            if ids[row] == -1 or ids[row] != pool_ids[column]
            if mask is None or mask[row, column]
        }
        wanted = sorted(found, key=lambda column: (-found[column], column))[:count]
        assert columns[row, : len(wanted)].tolist() == wanted
        assert (scores[row, len(wanted) :] == -torch.inf).all()
        values = torch.tensor([found[column] for column in wanted]).to(scores)
        torch.testing.assert_close(scores[row, : len(wanted)], values)


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_equal_scores_the_smaller_column_comes_first(kernel):
    rows = torch.eye(3, device=DEVICE)[torch.tensor([0, 1, 0, 1, 2, 0], device=DEVICE)]
    support = torch.eye(3, device=DEVICE)[:1], torch.eye(3, device=DEVICE)[1:2]
    ids = torch.tensor([-3], device=DEVICE), torch.arange(6, device=DEVICE)
    for count in range(1, 7):
        _, columns = KERNELS[kernel](support, rows, *ids, count, None)
        assert columns[0].tolist() == [0, 1, 2, 3, 5, 4][:count]
