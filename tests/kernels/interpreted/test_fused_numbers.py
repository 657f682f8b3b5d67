"""Uniform numbers in Triton: those of torch operations, to the bit."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.random.fused import fused_uniforms
from negplug.kernels.random.hashing import hashed_uniforms


@pytest.mark.parametrize("seed", [0, 1, 12345, -7, 2**62 - 1, -(2**63)])
@pytest.mark.parametrize("count", [1, 2, 7, 2049])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_numbers_of_a_stream_are_the_same(seed, count, dtype):
    for start in (0, 2, 2**33):
        wanted, found = torch.empty(2, count, dtype=dtype)
        hashed_uniforms(wanted, seed, start)
        fused_uniforms(found, seed, start)
        # Of fewer bits, as rounded from float64 or from the integer.
        apart = 0.0 if dtype == torch.float64 else 2.0**-24
        assert (found - wanted).abs().max() <= apart
        assert found.min() > 0
        assert found.max() < 1
