"""Blocks of a ring in the Triton programs of a pool."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from ring_blocks import blocks_add_up

from negplug.kernels.pool import question as asked
from negplug.kernels.ring import BLOCK_GRADIENT, BLOCK_SUMS
from negplug.kernels.ring.fused import fused_gradient, fused_sums


@pytest.mark.parametrize("many", [0, 2**40])
@pytest.mark.parametrize("temperature", [0.02, 0.3])
def test_blocks_add_up_to_the_pool(temperature, many, monkeypatch):
    monkeypatch.setattr(asked, "_WORTH_SPANNING", many)
    monkeypatch.setattr(asked, "has_quick_halves", lambda device: not many)
    kernels = fused_sums, fused_gradient
    blocks_add_up(*kernels, 40, 33, temperature, torch.float32, 5e-6 + 2e-7 / temperature)
    blocks_add_up(*kernels, 9, 8, temperature, torch.float64, 1e-12)


def test_half_precision_is_taken_where_it_is_enough():
    blocks_add_up(fused_sums, fused_gradient, 40, 33, 0.1, torch.float32, 2e-3, half=True)
    with pytest.raises(AssertionError):  # rounded to float16 it is no more than that
        blocks_add_up(fused_sums, fused_gradient, 40, 33, 0.1, torch.float32, 5e-6, half=True)


def test_the_programs_are_chosen():
    cpu = torch.device("cpu")
    assert BLOCK_SUMS.kernel(cpu, None) is fused_sums
    assert BLOCK_GRADIENT.kernel(cpu, None) is fused_gradient
