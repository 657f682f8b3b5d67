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
def _walked(score, noise, initial, burn_in, seen, step, BR: tl.constexpr, BN: tl.constexpr):
    """Return how often each proposal is drawn, and the initial state, and which are accepted."""
    proposes = score > float("-inf")
    # Not the sum where there is no proposal: an unbounded noise would make it NaN.
    threshold = tl.where(proposes, score + noise, float("-inf"))
    column = tl.broadcast_to(step[:, None], (BR, BN))
    highest, _, place = tl.associative_scan((threshold, score, column), 0, _then)
    moved = initial[None, :] < highest
    accepts = proposes & moved & (place == column)
    # What is counted after a step and before it, burn-in passed over.
    after = tl.maximum(seen - burn_in[None, :], 0).to(tl.int32)
    before = tl.maximum(seen - proposes.to(tl.int64) - burn_in[None, :], 0).to(tl.int32)
    total = tl.max(after, 0)
    drawn_from = tl.where(accepts, before, total[None, :])
    none = tl.broadcast_to(total[None, :], (BR, BN))
    least, until = tl.associative_scan((drawn_from, none), 0, _before, reverse=True)
    return tl.where(accepts, until - before, 0), tl.min(least, 0), accepts


@triton.jit
def _some_chains(step, chains, steps, BN: tl.constexpr):
    """Return a program's chains, which of them and of their steps there are, and these' places."""
    chain = tl.program_id(0) * BN + tl.arange(0, BN)
    here = chain < chains
    inside = (step[:, None] < steps) & here[None, :]
    return chain, here, inside, step[:, None].to(tl.int64) * chains + chain[None, :]


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
    step = tl.arange(0, BR)
    chain, here, inside, at = _some_chains(step, chains, steps, BN)
    score = tl.load(Scores + at, mask=inside, other=float("-inf"))
    noise = tl.load(Noise + at, mask=inside, other=0.0)
    initial = tl.load(Initial + chain, mask=here, other=float("-inf"))
    burn_in = tl.load(BurnIn + chain, mask=here, other=0)
    seen = tl.cumsum((score > float("-inf")).to(tl.int32), 0).to(tl.int64)
    counts, stayed, accepts = _walked(score, noise, initial, burn_in, seen, step, BR, BN)
    kind = Counts.dtype.element_ty
    tl.store(Counts + at, counts.to(kind), mask=inside)
    tl.store(Stayed + chain, stayed.to(kind), mask=here)
    last = tl.max(tl.where(accepts, step[:, None], -1), 0)
    tl.store(Last + chain, last.to(tl.int64), mask=here)
    tl.store(Accepted + chain, tl.sum(accepts.to(tl.int32), 0).to(kind), mask=here)


@triton.jit
def moves_of_chains(
    Scores,
    Noise,
    Initial,
    Place,
    Weights,
    Outside,
    Last,
    Accepted,
    chains,
    steps,
    BURN_IN: tl.constexpr,
    SHARE: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    """Walk some chains, the burn-in being a share or a number, and weigh what they draw."""
    step = tl.arange(0, BR)
    chain, here, inside, at = _some_chains(step, chains, steps, BN)
    score = tl.load(Scores + at, mask=inside, other=float("-inf"))
    noise = tl.load(Noise + at, mask=inside, other=0.0)
    initial = tl.load(Initial + chain, mask=here, other=float("-inf"))
    place = tl.load(Place + chain, mask=here, other=-1)
    seen = tl.cumsum((score > float("-inf")).to(tl.int32), 0).to(tl.int64)
    proposed = tl.max(seen, 0)
    most = tl.maximum(proposed - 1, 0)
    if SHARE:
        burn_in = tl.minimum((proposed.to(tl.float64) * BURN_IN).to(tl.int64), most)
    else:
        burn_in = tl.minimum(most, BURN_IN)
    counts, stayed, accepts = _walked(score, noise, initial, burn_in, seen, step, BR, BN)
    kind = Weights.dtype.element_ty
    total = tl.maximum(proposed - burn_in, 1).to(kind)
    # Where nothing is proposed, the state is still a draw.
    idle = (proposed == 0) & (initial > float("-inf"))
    kept = tl.where(idle, 1.0, stayed.to(kind) / total)
    mine = step[:, None] == place[None, :]
    weight = counts.to(kind) / total[None, :] + tl.where(mine, kept[None, :], 0.0)
    tl.store(Weights + at, weight.to(kind), mask=inside)
    tl.store(Outside + chain, tl.where(place < 0, kept, 0.0).to(kind), mask=here)
    last = tl.max(tl.where(accepts, step[:, None], -1), 0)
    tl.store(Last + chain, last.to(tl.int64), mask=here)
    accepted = tl.sum(accepts.to(tl.int32), 0).to(kind) / tl.maximum(proposed, 1).to(kind)
    tl.store(Accepted + chain, tl.where(proposed > 0, accepted, float("nan")), mask=here)


@triton.jit
def resampled_chains(
    Scores,
    Noise,
    Initial,
    Place,
    Weights,
    Outside,
    Last,
    Accepted,
    chains,
    steps,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    """Draw next states ``[steps, chains]`` and write the softmax over all candidates."""
    chain, here, inside, at = _some_chains(tl.arange(0, BR), chains, steps, BN)
    score = tl.load(Scores + at, mask=inside, other=float("-inf"))
    noise = tl.load(Noise + chains + at, mask=inside, other=0.0)
    place = tl.load(Place + chain, mask=here, other=-1)
    own = tl.load(Initial + chain, mask=here, other=float("-inf"))
    own = tl.where(place < 0, own, float("-inf"))
    best = tl.max(score, 0)
    highest = tl.maximum(best, own)
    some = highest > float("-inf")
    shift = tl.where(some, highest, 0.0)
    shares, kept = tl.exp(score - shift[None, :]), tl.exp(own - shift)
    total = tl.where(some, tl.sum(shares, 0) + kept, 1.0)
    kind = Weights.dtype.element_ty
    tl.store(Weights + at, (shares / total[None, :]).to(kind), mask=inside)
    tl.store(Outside + chain, (kept / total).to(kind), mask=here)
    noisy = score + noise
    stays = own + tl.load(Noise + chain, mask=here, other=0.0)
    goes = tl.max(noisy, 0) > stays
    last = tl.where(goes, tl.argmax(noisy, 0), -1)
    tl.store(Last + chain, last.to(tl.int64), mask=here)
    moved = (goes & (last != place)).to(kind)
    accepted = tl.where(best > float("-inf"), moved, float("nan"))
    tl.store(Accepted + chain, accepted, mask=here)


@triton.jit
def entries_of_chains(
    Values,
    Place,
    Otherwise,
    Found,
    chains,
    row_stride,
    column_stride,
    BN: tl.constexpr,
):
    """Write the entry of each chain's column, or what it is otherwise."""
    chain = tl.program_id(0) * BN + tl.arange(0, BN)
    here = chain < chains
    place = tl.load(Place + chain, mask=here, other=-1)
    otherwise = tl.load(Otherwise + chain, mask=here, other=0)
    at = Values + chain.to(tl.int64) * row_stride + place * column_stride
    found = tl.load(at, mask=here & (place >= 0), other=0)
    tl.store(Found + chain, tl.where(place >= 0, found, otherwise), mask=here)
