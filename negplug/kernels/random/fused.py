"""Uniform random numbers in one launch on a GPU: see :mod:`negplug.kernels.random.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from negplug.kernels.random.programs import uniforms_of_stream

# Hashes of a program, each of which is two numbers.
_PAIRS = 512


def fused_uniforms(out: Tensor, seed: int, start: int) -> None:
    """Write uniform numbers; see :func:`negplug.kernels.random.write_uniforms`."""
    grid = (triton.cdiv(len(out), 2 * _PAIRS),)
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        uniforms_of_stream[grid](out, seed, start // 2, len(out), PAIRS=_PAIRS)
