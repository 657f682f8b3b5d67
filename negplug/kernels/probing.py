"""A launch that shows whether Triton works: it needs a C compiler, Python's headers, a known card.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_NUMBERS = 16


@triton.jit
def _doubled(X, Y, BLOCK: tl.constexpr):
    """Write the double of some numbers."""
    place = tl.arange(0, BLOCK)
    tl.store(Y + place, 2 * tl.load(X + place))


def probe(device: torch.device) -> None:
    """Launch a program on a CUDA or ROCm device; raises whatever Triton raises."""
    with torch.cuda.device(device):
        numbers = torch.empty(2, _NUMBERS, device=device)
        _doubled[(1,)](*numbers, BLOCK=_NUMBERS)
