"""Triton programs of what a pool's programs take: float32 as two halves, spans of ids.

What they are for is said in :mod:`negplug.kernels.pool.logits`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def spans_of_ids(Ids, Spans, count):
    """Write the least and the greatest of each 64 ids."""
    block = tl.program_id(0)
    place = block * 64 + tl.arange(0, 64)
    # What is repeated at the end changes neither.
    ids = tl.load(Ids + tl.minimum(place, count - 1))
    tl.store(Spans + block, tl.min(ids, 0))
    tl.store(Spans + tl.num_programs(0) + block, tl.max(ids, 0))


@triton.jit
def halves_of_numbers(X, High, Low, count, BLOCK: tl.constexpr):
    """Write numbers, multiplied by 64, as two of float16 each."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + place, mask=place < count, other=0.0) * 64.0
    high = x.to(tl.float16)
    tl.store(High + place, high, mask=place < count)
    tl.store(Low + place, (x - high.to(tl.float32)).to(tl.float16), mask=place < count)
