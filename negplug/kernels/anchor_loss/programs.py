"""Triton programs of the loss of each anchor: some rows of anchors, or of keys, each.

The forward pass works in float64: it is a few numbers for each positive, and the digits of ℓ⁻ − s
are those of the gradient. What it keeps gives the derivative by s_p,

    form "each": −q σ(ℓ⁻ − s_p),        other forms: r e^{s_p − T} − q,

from the three numbers q, r and T of each anchor. A key's gradient is summed by one program, in an
order that is always the same. Where the keys are the anchors and positives are mutual, as those of
views are, the anchors that pull at a key are its own positives: the forward pass finds out. Else
the columns of all positives are compared with the rows of a program.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _softplus(x):
    small = tl.exp(-tl.abs(x))
    return tl.maximum(x, 0.0) + tl.where(small < 1e-9, small, tl.log(1.0 + small))


@triton.jit
def _logistic(x):
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0, small, 1.0) / (1.0 + small)


@triton.jit
def _rows_at(X, place, exists, width, slice_of, BD: tl.constexpr):
    """Return one slice of some rows of ``X``, zeros where there is none."""
    dim = slice_of * BD + tl.arange(0, BD)
    inside = exists[:, None] & (dim[None, :] < width)
    return tl.load(X + place[:, None].to(tl.int64) * width + dim[None, :], mask=inside, other=0.0)


@triton.jit
def losses_of_anchors(
    A,
    K,
    Columns,
    Negative,
    Loss,
    Kept,
    Pulls,
    Mutual,
    anchors,
    width,
    positives,
    steepness,
    FORM: tl.constexpr,
    APART: tl.constexpr,
    MUTUAL: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Write L, and what the backward pass needs.

    That is, for each anchor, q, r, T and ∂L/∂ℓ⁻, one after another in ``Kept`` ``[4, N]``; and for
    each positive, σ(ℓ⁻ − s_p) of the form "each", s_p of others, in ``Pulls`` ``[N, P]``. With
    ``MUTUAL`` also whether each of the program's anchors is a positive of its own positives.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    exists = row < anchors
    a = _rows_at(A, row, exists, width, 0, BD).to(tl.float64)
    negative = tl.load(Negative + row, mask=exists, other=0.0).to(tl.float64)
    number = tl.zeros([BM], tl.float64)
    added = tl.zeros([BM], tl.float64)
    slope = tl.zeros([BM], tl.float64)
    sums = tl.zeros([BM], tl.float64)
    highest = tl.full([BM], float("-inf"), tl.float64)
    mutual = tl.full([BM], 1, tl.int32)
    for p in range(positives):
        at = row.to(tl.int64) * positives + p
        column = tl.load(Columns + at, mask=exists, other=-1)
        present = column >= 0
        if MUTUAL:
            returned = tl.where(present, 0, 1)
            for q in range(positives):
                back = tl.load(Columns + column * positives + q, mask=present, other=-1)
                returned = tl.where(back == row, 1, returned)
            mutual = tl.minimum(mutual, returned)
        k = _rows_at(K, column, present, width, 0, BD).to(tl.float64)
        s = tl.sum(a * k, 1) * steepness
        number += tl.where(present, 1.0, 0.0)
        if FORM == "each" and not APART:
            x = negative - s
            pull = _logistic(x)
            slope += tl.where(present, pull, 0.0)
            added += tl.where(present, _softplus(x), 0.0)
            tl.store(Pulls + at, pull.to(tl.float32), mask=exists)
        else:
            added += tl.where(present, s, 0.0)
            tl.store(Pulls + at, s.to(tl.float32), mask=exists)
            own = tl.where(present, s, float("-inf"))
            after = tl.maximum(highest, own)
            shift = tl.where(after == float("-inf"), 0.0, after)
            sums = sums * tl.exp(highest - shift) + tl.exp(own - shift)
            highest = after
    some = (number > 0) & (negative != float("-inf"))
    share = tl.where(some, 1.0 / tl.maximum(number, 1.0), 0.0)
    rate = tl.zeros([BM], tl.float64)
    pivot = tl.zeros([BM], tl.float64)
    mean = added * share
    loss = mean
    if FORM == "each" and not APART:
        slope = slope * share
    elif FORM != "sum" and APART:
        loss = negative - mean
        slope = tl.where(some, 1.0, 0.0)
    else:
        pivot = tl.where(some, highest + tl.log(tl.where(sums == 0, 1.0, sums)), 0.0)
        x = tl.where(some, negative - pivot, 0.0)
        if APART:
            loss = x
            slope = tl.where(some, 1.0, 0.0)
            rate = -slope
            share = rate * 0.0
        elif FORM == "sum":
            loss = _softplus(x)
            slope = tl.where(some, _logistic(x), 0.0)
            rate = -slope
            share = rate * 0.0
        else:
            loss = _softplus(x) + pivot - mean
            slope = tl.where(some, _logistic(x), 0.0)
            rate = tl.where(some, _logistic(-x), 0.0)
    if MUTUAL:
        tl.store(Mutual + tl.program_id(0), tl.min(mutual, 0).to(tl.uint8))
    tl.store(Loss + row, tl.where(some, loss, 0.0).to(tl.float32), mask=exists)
    tl.store(Kept + row, share.to(tl.float32), mask=exists)
    tl.store(Kept + anchors + row, rate.to(tl.float32), mask=exists)
    tl.store(Kept + 2 * anchors + row, pivot.to(tl.float32), mask=exists)
    tl.store(Kept + 3 * anchors + row, slope.to(tl.float32), mask=exists)


@triton.jit
def _weights(Pulls, Kept, place, at, exists, anchors, SIGMOID: tl.constexpr):
    """Return the derivatives of some anchors' losses by their logits with one positive each."""
    pull = tl.load(Pulls + at, mask=exists, other=0.0)
    share = tl.load(Kept + place, mask=exists, other=0.0)
    if SIGMOID:
        return -share * pull
    rate = tl.load(Kept + anchors + place, mask=exists, other=0.0)
    pivot = tl.load(Kept + 2 * anchors + place, mask=exists, other=0.0)
    # Of an anchor that pays nothing the exponential, without a pivot, may overflow.
    return tl.where(rate == 0, 0.0, rate * tl.exp(pull - pivot)) - share


@triton.jit
def _all(Flags, count, CHUNK: tl.constexpr):
    """Return whether all of some truth values are true."""
    every = tl.full([CHUNK], 1, tl.uint8)
    for start in range(0, count, CHUNK):
        place = start + tl.arange(0, CHUNK)
        every = tl.minimum(every, tl.load(Flags + place, mask=place < count, other=1))
    return tl.min(every.to(tl.int32), 0) > 0


# Made for a single positive, the program is one that Triton 3.2 cannot compile.
@triton.jit(do_not_specialize=["positives"])
def gradients_of_rows(
    A,
    K,
    Columns,
    Kept,
    Pulls,
    Mutual,
    Grad,
    Out,
    OutNegative,
    rows,
    anchors,
    width,
    positives,
    grad_stride,
    flags,
    steepness,
    SIGMOID: tl.constexpr,
    PULLED: tl.constexpr,
    PULLING: tl.constexpr,
    MUTUAL: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    CHUNK: tl.constexpr,
    BD: tl.constexpr,
):
    """Write one slice of the gradient of some rows.

    With ``PULLED`` they are anchors: what their positives pull; and that of ℓ⁻. With ``PULLING``
    they are keys: what they pull at as positives. With both they are both.
    """
    first, part = tl.program_id(0) * BM, tl.program_id(1)
    row = first + tl.arange(0, BM)
    out = tl.zeros([BM, BD], tl.float32)
    mutual = False
    if MUTUAL:
        mutual = _all(Mutual, flags, CHUNK)
    if PULLED:
        exists = row < anchors
        grad = tl.load(Grad + row * grad_stride, mask=exists, other=0.0)
        if part == 0:
            slope = tl.load(Kept + 3 * anchors + row, mask=exists, other=0.0)
            tl.store(OutNegative + row, slope * grad, mask=exists)
        for p in range(positives):
            at = row.to(tl.int64) * positives + p
            column = tl.load(Columns + at, mask=exists, other=-1)
            weight = _weights(Pulls, Kept, row, at, column >= 0, anchors, SIGMOID) * grad
            if MUTUAL:
                if mutual:
                    for q in range(positives):
                        there = column * positives + q
                        back = tl.load(Columns + there, mask=column >= 0, other=-1)
                        pulls = (back == row) & exists
                        own = _weights(Pulls, Kept, column, there, pulls, anchors, SIGMOID)
                        factor = tl.load(Grad + column * grad_stride, mask=pulls, other=0.0)
                        weight += tl.where(pulls, own * factor, 0.0)
            k = _rows_at(K, column, column >= 0, width, part, BD)
            out += weight[:, None] * k
    if PULLING:
        searched = anchors
        if MUTUAL:
            searched = tl.where(mutual, 0, anchors)
        for start in range(0, searched, CHUNK):
            # Most anchors have their positives elsewhere.
            many = start + tl.arange(0, CHUNK)
            near = tl.zeros([CHUNK], tl.int32)
            for p in range(positives):
                at = many.to(tl.int64) * positives + p
                column = tl.load(Columns + at, mask=many < anchors, other=-1)
                near = tl.where((column >= first) & (column < first + BM), 1, near)
            if tl.max(near, 0) > 0:
                for begin in range(start, tl.minimum(start + CHUNK, anchors), BN):
                    place = begin + tl.arange(0, BN)
                    there = place < anchors
                    factor = tl.load(Grad + place * grad_stride, mask=there, other=0.0)
                    weights = tl.zeros([BM, BN], tl.float32)
                    for p in range(positives):
                        at = place.to(tl.int64) * positives + p
                        column = tl.load(Columns + at, mask=there, other=-1)
                        weight = _weights(Pulls, Kept, place, at, column >= 0, anchors, SIGMOID)
                        own = row[:, None] == column[None, :]
                        weights += tl.where(own, (weight * factor)[None, :], 0.0)
                    a = _rows_at(A, place, there, width, part, BD)
                    out += tl.dot(weights, a, input_precision="ieee")
    dim = part * BD + tl.arange(0, BD)
    inside = (row[:, None] < rows) & (dim[None, :] < width)
    at = row[:, None].to(tl.int64) * width + dim[None, :]
    tl.store(Out + at, out * steepness, mask=inside)
