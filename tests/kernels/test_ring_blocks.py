"""Blocks of a ring: each kernel adds up to a whole pool, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from ring_blocks import blocks_add_up

from negplug.kernels.ring import BLOCK_GRADIENT, BLOCK_SUMS
from negplug.kernels.ring.reference import full_gradient, full_sums
from negplug.kernels.ring.tiled import tiled_gradient, tiled_sums

KERNELS = {"torch": (tiled_sums, tiled_gradient), "reference": (full_sums, full_gradient)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("temperature", [0.01, 0.3])
@pytest.mark.parametrize(("rows", "width"), [(1, 3), (40, 16), (600, 70)])
def test_blocks_add_up_to_the_pool(rows, width, temperature, kernel):
    blocks_add_up(*KERNELS[kernel], rows, width, temperature, torch.float64, 1e-13)
    blocks_add_up(*KERNELS[kernel], rows, width, temperature, torch.float32, 2e-6 / temperature)


def test_a_backend_is_forced_for_both(monkeypatch):
    for backend, kernels in KERNELS.items():
        monkeypatch.setenv("NEGPLUG_BACKEND", backend)
        found = (operation.kernel(DEVICE, None) for operation in (BLOCK_SUMS, BLOCK_GRADIENT))
        assert tuple(found) == kernels


def test_nothing_is_read_back():
    a, k = (torch.empty(n, 4, device="meta") for n in (6, 9))
    ids, names = (torch.empty(n, dtype=torch.int64, device="meta") for n in (6, 9))
    value, slope = tiled_sums(a, k, ids, names, 0.1, False, True)
    added = tiled_gradient(a, k, ids, names, 0.1, False, value, value)
    assert (value.shape, slope.shape, added.shape) == ((6,), (6, 4), (9, 4))
