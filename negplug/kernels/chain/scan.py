"""Chains as an associative scan, in torch operations, on any device.

A step maps the present score c to (c < T ? V : c), with V the proposal's score and T = V + noise.
Two steps in a row are again one step,

    T = max(T₁, T₂),        V = (V₁ < T₂ ? V₂ : V₁),

because V₁ ≤ T₁. So all states follow from a tree of pairs in O(log R) rounds (Blelloch, "Prefix
sums and their applications", 1990), which compares the same numbers as a loop over the proposals:
the result is the same to the last draw.

Numbers of draws need no scatter. With W_j the draws counted before step j, an accepted proposal j
is drawn W' − W_j times, where W', the W of the next accepted step, is the least of any later one.

Steps lie along the first dimension here, so that neighbours in memory are independent chains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from negplug.kernels.chain.result import Walk

# Finite stand-ins for the score of what is no state and for a noise that accepts anything: lerp,
# on a CPU ten times as quick as where, multiplies by zero. Their sum is _NOTHING in every dtype.
_NOTHING = -1e37
_CERTAIN = 1e25

# Entries at a time, to keep the temporaries in bounds.
_ENTRIES = {"cpu": 2**20}
_ENTRIES_ELSEWHERE = 2**24


def scan_walk(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Return what :func:`negplug.kernels.chain.walk` returns; see there for the arguments.

    Quickest where ``scores.T`` and ``noise.T`` are contiguous; ``counts.T`` is.
    """
    chains, steps = scores.shape
    counts = scores.new_empty(steps, chains)
    stayed, accepted = scores.new_empty(2, chains)
    last = scores.new_empty(chains, dtype=torch.int64)
    width = max(1, _ENTRIES.get(scores.device.type, _ENTRIES_ELSEWHERE) // steps)
    for start in range(0, chains, width):
        part = slice(start, start + width)
        found = _walk(scores[part].T, noise[part].T, initial[part], burn_in[part])
        counts[:, part], stayed[part], last[part], accepted[part] = found
    return Walk(counts.T, stayed, last, accepted)


@torch.inference_mode()  # A quarter less overhead per operation; the caller copies the results.
def _walk(
    scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what a walk leaves behind, all of it in the dtype of the scores.

    Args:
        scores: ``[R, N]``.
        noise: ``[R, N]``.
        initial: ``[N]``.
        burn_in: ``[N]``.
    """
    count = len(scores)
    # Few buffers, each used more than once: fresh ones cost page faults.
    states, spare = scores.new_empty((2, count + 1, scores.shape[1]))
    values = torch.clamp(scores, min=_NOTHING, out=spare[:count])
    thresholds = torch.clamp(noise, max=_CERTAIN, out=torch.empty_like(values)).add_(values)
    _states(thresholds, values, initial.clamp(min=_NOTHING), states)
    accepts = torch.lt(states[:-1], thresholds, out=torch.empty_like(values))
    # −W, so that the next accepted step has the largest.
    steps = torch.gt(values, _NOTHING, out=thresholds)
    before = _suffixes(torch.add, steps, burn_in - steps.sum(0), out=states).clamp_(max=0)
    # Steps that are not accepted must not be the largest: W is at most R.
    lift = count + 1
    since = torch.add(before[:-1], accepts, alpha=lift, out=thresholds)
    until = _suffixes(torch.maximum, since, before[-1] + lift, out=spare)
    draws, stayed = since.sub_(until[1:]).mul_(accepts), lift - until[0]
    column = torch.arange(1, lift, dtype=scores.dtype, device=scores.device)[:, None]
    last = torch.mul(accepts, column, out=spare[:count]).amax(0) - 1
    return draws, stayed, last, accepts.sum(0)


def _states(thresholds: Tensor, values: Tensor, initial: Tensor, out: Tensor) -> None:
    """Write the score before each of n steps and after the last, to ``out [n + 1, N]``."""
    count = len(values)
    if count == 1:
        out[0] = initial
        torch.lerp(out[:1], values, torch.lt(out[:1], thresholds, out=out[1:]), out=out[1:])
        return
    first_threshold, second_threshold = thresholds[::2], thresholds[1::2]
    first_value, second_value = values[::2], values[1::2]
    known, after = out[::2], out[1::2]
    # Every other state follows from steps two by two; the rest lie one step after those.
    paired = count // 2
    moves = torch.empty_like(second_value)
    torch.lt(first_value[:paired], second_threshold, out=moves)
    pairs = torch.lerp(first_value[:paired], second_value, moves, out=moves)
    _states(torch.maximum(first_threshold[:paired], second_threshold), pairs, initial, known)
    before = known[: count - paired]
    torch.lt(before, first_threshold, out=after)
    torch.lerp(before, first_value, after, out=after)


def _suffixes(reduce: Callable[..., Tensor], values: Tensor, last: Tensor, out: Tensor) -> Tensor:
    """Write the reductions of values[j:] and ``last``, for j = 0…n, to ``out [n + 1, N]``."""
    count = len(values)
    if count == 1:
        out[1] = last
        reduce(values, out[1:], out=out[:1])
        return out
    odd = count % 2
    _suffixes(reduce, reduce(values[odd::2], values[odd + 1 :: 2]), last, out[odd::2])
    reduce(values[1 - odd :: 2], out[2 - odd :: 2], out=out[1 - odd : count : 2])
    return out
