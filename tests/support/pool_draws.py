"""Draws from the softmax over a pool by loops: one tile, one anchor, one draw after the other."""

from __future__ import annotations

import math

import torch
from device import DEVICE
from torch.nn.functional import normalize

from negplug.kernels.random.hashing import hashed_uniforms


def question(rows, keys, width, form, seed=0):
    """Anchors, pool and ids; weights and a mask. One anchor has no negative where any is masked."""
    draw = {"generator": torch.Generator().manual_seed(seed)}
    a = normalize(torch.randn(rows, width, **draw), dim=1)
    k = normalize(torch.randn(keys, width, **draw), dim=1)
    anchor_ids, pool_ids = (torch.randint(-1, 5, (size,), **draw) for size in (rows, keys))
    shape = {"own weights": (rows, keys), "shared weights": (1, keys), "one weight": (rows, 1)}
    weight = 2 * torch.randn(shape[form], **draw) if form in shape else None
    mask = None
    if form == "masked":
        mask = torch.rand(rows, keys, **draw) < 0.4
        mask[0] = False
    given = (a, k, anchor_ids, pool_ids, weight, mask)
    asked = [None if x is None else x.to(DEVICE) for x in given]
    return asked[:4], asked[4:]


def by_loops(a, k, anchor_ids, pool_ids, temperature, count, seed, weight, mask, tile):
    """Each draw's column, and the maximum that it attains; (0, -inf) where there is none."""
    rows, keys = len(a), len(k)
    logits = a.double() @ k.double().T / temperature
    if weight is not None:
        logits = logits + weight
    tiles = range(0, keys, tile)
    uniform = torch.empty(2 * rows * count * len(tiles), dtype=torch.float64)
    hashed_uniforms(uniform, seed, 0)
    uniform = uniform.view(len(tiles), rows, count, 2).tolist()
    names, others = anchor_ids.tolist(), pool_ids.tolist()
    drawn = [[(0, -math.inf)] * count for _ in range(rows)]
    for number, first in enumerate(tiles):
        for i, name in enumerate(names):
            serve = [
                j
                for j in range(first, min(first + tile, keys))
                if (name == -1 or others[j] != name) and (mask is None or mask[i, j])
            ]
            if not serve:
                continue
            shares = [math.exp(float(logits[i, j] - logits[i, serve].max())) for j in serve]
            total = math.log(sum(shares)) + float(logits[i, serve].max())
            for m in range(count):
                gumbel, inversion = uniform[number][i][m]
                value = total - math.log(-math.log(gumbel))
                if value > drawn[i][m][1]:
                    left, place = inversion * sum(shares), 0
                    while left >= shares[place]:
                        left -= shares[place]
                        place += 1
                    drawn[i][m] = serve[place], value
    return drawn


def assert_drawn(found, wanted, tolerance=1e-5):
    columns, maxima = (x.cpu() for x in found)
    assert columns.tolist() == [[column for column, _ in row] for row in wanted]
    exact = torch.tensor([[value for _, value in row] for row in wanted], dtype=torch.float64)
    torch.testing.assert_close(maxima.double(), exact, rtol=0, atol=tolerance)
