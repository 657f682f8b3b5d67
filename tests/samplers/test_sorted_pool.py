"""A pool sorted by stratum: listed exclusions, searched ones and a loop find the same rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from negplug.samplers.common.sorted_pool import SortedPool


def divided(pool: SortedPool, part: int) -> list[list[int]]:
    """Return the pool columns of every anchor in a part, in their order."""
    available = pool.available[part]
    width = int(available.max())
    places = torch.arange(width).expand(len(available), -1).clone()
    slots = pool.slots(part, places)
    return [row[:number].tolist() for row, number in zip(slots, available, strict=True)]


def by_loop(anchor_ids: Tensor, pool_ids: Tensor, own: Tensor, rows: Tensor, serves: Tensor):
    inside, outside = [], []
    # By stratum, and in the order of the pool within one.
    order = sorted(range(len(rows)), key=lambda k: (int(rows[k]), k))
    for name, stratum in zip(anchor_ids.tolist(), own.tolist(), strict=True):
        legal = [k for k in order if serves[k] and (name == -1 or int(pool_ids[k]) != name)]
        mates = [k for k in legal if stratum != -1 and int(rows[k]) == stratum]
        inside.append(mates)
        outside.append([k for k in legal if k not in mates])
    return inside, outside


@pytest.mark.parametrize("backend", ["torch", "triton"])  # free to read, and not
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_places_are_what_a_loop_counts(seed, masked, backend, monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    draw = torch.Generator().manual_seed(seed)
    anchors, rows, names, strata = 9, 3 + 11 * seed, 1 + seed, 2 + seed % 3
    anchor_ids = torch.randint(-1, names, (anchors,), generator=draw)
    pool_ids = torch.randint(-1, names + 1, (rows,), generator=draw)
    own = torch.randint(-1, strata, (anchors,), generator=draw)
    of_rows = torch.randint(-1, strata + 1, (rows,), generator=draw)
    serves = torch.rand(rows, generator=draw) < 0.7
    pool = SortedPool(anchor_ids, pool_ids, own, of_rows, serves if masked else None)
    expected = by_loop(
        anchor_ids, pool_ids, own, of_rows, serves if masked else torch.ones_like(serves)
    )
    for part in (0, 1):
        assert divided(pool, part) == expected[part]
