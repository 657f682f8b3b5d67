"""The kernels that are there, and pairs of rows to compare them on."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.nn.functional import normalize

from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.dense import dense_similarities

NUMBA = importlib.util.find_spec("numba") is not None
SIMILARITIES = {"bags": bag_similarities, "dense": dense_similarities}
if NUMBA:
    from negplug.kernels.chosen.compiled import compiled_similarities

    SIMILARITIES["compiled"] = compiled_similarities
else:
    compiled_similarities = None
needs_numba = pytest.mark.skipif(not NUMBA, reason="numba is not installed")


def pairs(anchors, columns, pool, dimension, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    a = normalize(torch.randn(anchors, dimension, **draw), dim=1).to(dtype).requires_grad_()
    k = normalize(torch.randn(pool, dimension, **draw), dim=1).to(dtype).requires_grad_()
    # With replacement: a row of the pool may be chosen twice, or by nobody.
    chosen = torch.randint(pool, (anchors, columns), generator=generator)
    mask = torch.rand(anchors, columns, generator=generator) < 0.7
    weights = torch.randn(anchors, columns, **draw)
    return a, k, chosen, mask, weights
