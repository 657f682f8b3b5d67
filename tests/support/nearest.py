"""Anchors and pools whose similarities are exact in float32, and their nearest by loops."""

from __future__ import annotations

import torch
from device import DEVICE


def question(rows, keys, width, masked=False, seed=0):
    """Rows on a coarse grid, so that many similarities are equal, and few ids."""
    draw = {"generator": torch.Generator().manual_seed(seed)}
    a = torch.randint(-2, 3, (rows, width), **draw) / 8
    k = torch.randint(-2, 3, (keys, width), **draw) / 8
    # Each row twice, one after the other or far apart.
    k[1::2] = k[: 2 * (keys // 2) : 2]
    k[keys - keys // 3 :] = k[: keys // 3]
    anchor_ids, pool_ids = (torch.randint(-1, 6, (size,), **draw) for size in (rows, keys))
    # Ids that share their lower 32 bits are different ids.
    pool_ids[pool_ids == 5] = 4 + (1 << 40)
    mask = None
    if masked:
        mask = torch.rand(rows, keys, **draw) < 0.3
        mask[0] = False
        mask = mask.to(DEVICE)
    return *(x.to(DEVICE) for x in (a, k, anchor_ids, pool_ids)), mask


def by_loops(a, k, anchor_ids, pool_ids, count, mask=None):
    """Each anchor's nearest columns, as lists."""
    similarities = (a.double() @ k.double().T).tolist()
    pool_ids = pool_ids.tolist()
    found = []
    for i, name in enumerate(anchor_ids.tolist()):
        serve = [j for j, other in enumerate(pool_ids) if name == -1 or other != name]
        if mask is not None:
            serve = [j for j in serve if mask[i, j]]
        found.append(sorted(serve, key=lambda j: (-similarities[i][j], j))[:count])
    return found


def assert_nearest(found, wanted, count):
    columns, there = found
    if there is None:
        assert all(len(row) == count for row in wanted)
        there = torch.ones_like(columns, dtype=torch.bool)
    assert columns.shape == there.shape == (len(wanted), count)
    assert columns.dtype == torch.int64
    assert there.sum(1).tolist() == [len(row) for row in wanted]
    for ours, row in zip(columns.tolist(), wanted, strict=True):
        assert ours == row + [0] * (count - len(row))
