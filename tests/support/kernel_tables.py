"""The kernels that are there, and pairs of rows to compare them on."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from device import DEVICE
from torch.nn.functional import normalize

from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.dense import dense_similarities

NUMBA = importlib.util.find_spec("numba") is not None
COMPILED = NUMBA and DEVICE.type == "cpu"
"""Whether compiled loops serve the tests' device."""

SIMILARITIES = {"bags": bag_similarities, "dense": dense_similarities}
if COMPILED:
    from negplug.kernels.chosen.compiled import compiled_similarities

    SIMILARITIES["compiled"] = compiled_similarities
else:
    compiled_similarities = None
needs_numba = pytest.mark.skipif(
    not COMPILED, reason="numba is not installed, or the tests are not on the CPU"
)


def pairs(anchors, columns, pool, dimension, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    a = normalize(torch.randn(anchors, dimension, **draw), dim=1).to(DEVICE, dtype)
    k = normalize(torch.randn(pool, dimension, **draw), dim=1).to(DEVICE, dtype)
    # With replacement: a row of the pool may be chosen twice, or by nobody.
    chosen = torch.randint(pool, (anchors, columns), generator=generator)
    mask = torch.rand(anchors, columns, generator=generator) < 0.7
    weights = torch.randn(anchors, columns, **draw)
    rest = [x.to(DEVICE) for x in (chosen, mask, weights)]
    return a.requires_grad_(), k.requires_grad_(), *rest
