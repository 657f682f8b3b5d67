"""A Triton program of chains: all proposals of a few chains at once, as associative scans.

Forward, a run of proposals is (T, V, P): the highest threshold, and where a chain that it moves
ends, as a score and as a column. Two runs in a row are again one, see
:mod:`negplug.kernels.chain.scan`. Backward, with D_j the draws counted before proposal j, one that
is accepted is drawn D′ − D_j times, where D′ is the D of the next accepted one.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _then(threshold, value, place, next_threshold, next_value, next_place):
    """Return the run of two runs, one after the other."""
    moves = value < next_threshold
    return (
        tl.maximum(threshold, next_threshold),
        tl.where(moves, next_value, value),
        tl.where(moves, next_place, place),
    )


@triton.jit
def _before(least, least_of_rest, earlier, earlier_rest):
    """Return the least of a run, and of all but its first, from those of a later and an earlier."""
    return tl.minimum(earlier, least), tl.minimum(earlier_rest, least)


@triton.jit
def walk_of_chains(
    Scores,
    Noise,
    Initial,
    BurnIn,
    Counts,
    Stayed,
    Last,
    Accepted,
    chains,
    steps,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    """Walk some chains ``[steps, chains]`` through all of their proposals."""
    step, chain = tl.arange(0, BR), tl.program_id(0) * BN + tl.arange(0, BN)
    here = chain < chains
    inside = (step[:, None] < steps) & here[None, :]
    at = step[:, None].to(tl.int64) * chains + chain[None, :]
    score = tl.load(Scores + at, mask=inside, other=float("-inf"))
    noise = tl.load(Noise + at, mask=inside, other=0.0)
    initial = tl.load(Initial + chain, mask=here, other=float("-inf"))
    burn_in = tl.load(BurnIn + chain, mask=here, other=0)
    proposes = score > float("-inf")
    # Not the sum where there is no proposal: an unbounded noise would make it NaN.
    threshold = tl.where(proposes, score + noise, float("-inf"))
    column = tl.broadcast_to(step[:, None], (BR, BN))
    highest, _, place = tl.associative_scan((threshold, score, column), 0, _then)
    moved = initial[None, :] < highest
    accepts = proposes & moved & (place == column)
    # What is counted after a step and before it, burn-in passed over.
    seen = tl.cumsum(proposes.to(tl.int32), 0).to(tl.int64)
    after = tl.maximum(seen - burn_in[None, :], 0).to(tl.int32)
    before = tl.maximum(seen - proposes.to(tl.int64) - burn_in[None, :], 0).to(tl.int32)
    total = tl.max(after, 0)
    drawn_from = tl.where(accepts, before, total[None, :])
    none = tl.broadcast_to(total[None, :], (BR, BN))
    least, until = tl.associative_scan((drawn_from, none), 0, _before, reverse=True)
    counts = tl.where(accepts, until - before, 0)
    kind = Counts.dtype.element_ty
    tl.store(Counts + at, counts.to(kind), mask=inside)
    tl.store(Stayed + chain, tl.min(least, 0).to(kind), mask=here)
    tl.store(Last + chain, tl.max(tl.where(accepts, column, -1), 0).to(tl.int64), mask=here)
    tl.store(Accepted + chain, tl.sum(accepts.to(tl.int32), 0).to(kind), mask=here)
