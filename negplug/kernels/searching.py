"""A binary search for Triton programs.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def number_below(Ordered, wanted, count, halvings):
    """Return how many of ``count`` ascending integers are below each of some wanted ones, int64.

    ``halvings`` is the number of bits of ``count``.
    """
    low = tl.zeros_like(wanted).to(tl.int64)
    high = low + count
    for _ in range(halvings):
        middle = (low + high) // 2
        open_ = low < high
        below = open_ & (tl.load(Ordered + middle, mask=open_, other=0) < wanted)
        high = tl.where(open_ & (below == 0), middle, high)
        low = tl.where(below, middle + 1, low)
    return low
