"""Triton programs of chosen columns: a few anchors each, or a few rows of the pool each.

Logits are in powers of two and less one, as in :mod:`negplug.kernels.pool.programs`,
s = c·(⟨a_i, k_{c(i,m)}⟩ − 1) + log₂ w_im with c = log₂e/τ. The key of a pair is its column, or K,
the number of rows, where the mask leaves it out; sorted by their keys, the pairs of a row of the
pool are neighbours, which are summed in one order whatever runs at once. A column that is no row of
the pool makes what depends on it NaN: a program cannot raise.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from negplug.kernels.searching import number_below

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _chosen(
    K,
    Columns,
    Mask,
    row,
    place,
    rows,
    keys,
    choices,
    width,
    mask_row,
    mask_place,
    BD: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Return which pairs of some anchors serve, which of them name no row of the pool, and more.

    That is the columns of the pairs, K where a pair has no gradient, and their rows, or zeros.
    """
    row, place = row[:, None].to(tl.int64), place[None, :].to(tl.int64)
    serves = (row < rows) & (place < choices)
    column = tl.load(Columns + row * choices + place, mask=serves, other=0)
    if MASKED:
        at = Mask + row * mask_row + place * mask_place
        serves &= tl.load(at, mask=serves, other=0) != 0
    there = serves & (column >= 0) & (column < keys)
    dim = tl.arange(0, BD)[None, None, :]
    at = K + column[:, :, None] * width + dim
    k = tl.load(at, mask=there[:, :, None] & (dim < width), other=0.0)
    return serves, serves & (there == 0), tl.where(there, column, keys), k


@triton.jit
def _write_pairs(Out, value, row, place, rows, choices):
    """Write ``[rows, choices]``."""
    row, place = row[:, None].to(tl.int64), place[None, :].to(tl.int64)
    inside = (row < rows) & (place < choices)
    tl.store(Out + row * choices + place, value.to(Out.dtype.element_ty), mask=inside)


# Rows are ``[BR, 1, BD]`` throughout: of two axes the compiler would spread them over each thread.


@triton.jit
def _at_rows(X, row, rows, width, BD: tl.constexpr):
    """Return where some rows of ``X`` ``[rows, width]`` lie, and what of them is inside."""
    row, dim = row[:, None, None].to(tl.int64), tl.arange(0, BD)[None, None, :]
    return X + row * width + dim, (row < rows) & (dim < width)


@triton.jit
def similarities_of_pairs(
    A,
    K,
    Columns,
    Mask,
    Out,
    Keys,
    rows,
    keys,
    choices,
    width,
    mask_row,
    mask_place,
    BR: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    MASKED: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write ⟨a_i, k_{c(i,m)}⟩, 0 where the mask leaves a pair out, and the keys of the pairs."""
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    place = tl.program_id(1) * BM + tl.arange(0, BM)
    at, inside = _at_rows(A, row, rows, width, BD)
    a = tl.load(at, mask=inside, other=0.0)
    _, wrong, key, k = _chosen(
        K, Columns, Mask, row, place, rows, keys, choices, width, mask_row, mask_place, BD, MASKED
    )
    s = tl.where(wrong, float("nan"), tl.sum(a * k, 2))
    _write_pairs(Out, s, row, place, rows, choices)
    if KEYS:
        _write_pairs(Keys, key, row, place, rows, choices)


@triton.jit
def logsumexp_of_pairs(
    A,
    K,
    Columns,
    Weight,
    Mask,
    Value,
    Slope,
    Logits,
    Total,
    Keys,
    rows,
    keys,
    choices,
    width,
    scale,
    inverse,
    weight_row,
    weight_place,
    mask_row,
    mask_place,
    BR: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    SLOPE: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write ℓ and, as they are wanted, ∂ℓ_i/∂a_i and what the gradient of the pool is made of.

    That is the logits, their log-sum-exp in powers of two, and the keys of the pairs. ``inverse``
    is 1/τ.
    """
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    at, inside = _at_rows(A, row, rows, width, BD)
    a = tl.load(at, mask=inside, other=0.0)
    highest = tl.full([BR], float("-inf"), tl.float32)
    sums = tl.zeros([BR], tl.float32)
    means = tl.zeros([BR, 1, BD], tl.float32)
    for start in range(0, choices, BM):
        place = start + tl.arange(0, BM)
        serves, wrong, key, k = _chosen(
            K,
            Columns,
            Mask,
            row,
            place,
            rows,
            keys,
            choices,
            width,
            mask_row,
            mask_place,
            BD,
            MASKED,
        )
        s = tl.where(wrong, float("nan"), (tl.sum(a * k, 2) - 1.0) * scale)
        if WEIGHTED:
            weight = Weight + row[:, None].to(tl.int64) * weight_row + place[None, :] * weight_place
            s += tl.load(weight, mask=serves, other=0.0).to(tl.float32) * LOG2E
        s = tl.where(serves, s, float("-inf"))
        if KEYS:
            _write_pairs(Logits, s, row, place, rows, choices)
            _write_pairs(Keys, key, row, place, rows, choices)
        after = tl.maximum(highest, tl.max(s, 1))
        # exp2(-inf − 0) = 0: where there is no negative yet, there is nothing to sum.
        shift = tl.where(after == float("-inf"), 0.0, after)
        faded = tl.exp2(highest - shift)
        p = tl.exp2(s - shift[:, None])
        sums = sums * faded + tl.sum(p, 1)
        if SLOPE:
            means = means * faded[:, None, None] + tl.sum(p[:, :, None] * k, 1, keep_dims=True)
        highest = after
    # Not where it is above zero, which what is not a number is not.
    none = sums == 0
    total = tl.where(none, float("-inf"), highest + tl.log2(tl.where(none, 1.0, sums)))
    tl.store(Value + row, total / LOG2E + inverse, mask=row < rows)
    if SLOPE:
        means = means * (inverse / tl.where(none, 1.0, sums))[:, None, None]
        at, inside = _at_rows(Slope, row, rows, width, BD)
        tl.store(at, means, mask=inside)
    if KEYS:
        tl.store(Total + row, total, mask=row < rows)


@triton.jit
def sums_by_anchor(
    K,
    Keys,
    Grad,
    Out,
    rows,
    keys,
    choices,
    width,
    BR: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Write Σ_m g_im k_{c(i,m)} of each anchor i."""
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    dim = tl.arange(0, BD)[None, None, :]
    out = tl.zeros([BR, 1, BD], tl.float32)
    for start in range(0, choices, BM):
        place = start + tl.arange(0, BM)
        at = row[:, None].to(tl.int64) * choices + place[None, :]
        inside = (row[:, None] < rows) & (place[None, :] < choices)
        key = tl.load(Keys + at, mask=inside, other=0).to(tl.int64)
        inside &= key < keys
        grad = tl.load(Grad + at, mask=inside, other=0.0)
        there = inside[:, :, None] & (dim < width)
        k = tl.load(K + key[:, :, None] * width + dim, mask=there, other=0.0)
        out += tl.sum(grad[:, :, None] * k, 1, keep_dims=True)
    at, inside = _at_rows(Out, row, rows, width, BD)
    tl.store(at, out, mask=inside)


@triton.jit
def sums_by_key(
    A,
    Ordered,
    Order,
    Values,
    Total,
    Grad,
    Added,
    Out,
    keys,
    pairs,
    choices,
    width,
    halvings,
    factor,
    BK: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
    SOFTMAX: tl.constexpr,
    ADDED: tl.constexpr,
):
    """Write factor · Σ g_im a_i over the pairs (i, m) of each key, and what is added to it.

    Pairs come in the order of their keys. Their g_im are the values, or with ``SOFTMAX``
    g_i 2^{s_im − ℓ_i}, the values being the logits.
    """
    key = tl.program_id(0) * BK + tl.arange(0, BK)
    first = number_below(Ordered, key, pairs, halvings)
    last = tl.where(key < keys, number_below(Ordered, key + 1, pairs, halvings), first)
    dim = tl.arange(0, BD)[None, None, :]
    out = tl.zeros([BK, 1, BD], tl.float32)
    for start in range(0, tl.max(last - first, 0), BP):
        place = first[:, None] + start + tl.arange(0, BP)[None, :]
        inside = place < last[:, None]
        pair = tl.load(Order + place, mask=inside, other=0)
        row = pair // choices
        share = tl.load(Values + pair, mask=inside, other=0.0)
        if SOFTMAX:
            total = tl.load(Total + row, mask=inside, other=0.0)
            total = tl.where(total == float("-inf"), 0.0, total)
            share = tl.exp2(share - total) * tl.load(Grad + row, mask=inside, other=0.0)
        there = inside[:, :, None] & (dim < width)
        a = tl.load(A + row[:, :, None] * width + dim, mask=there, other=0.0)
        out += tl.sum(share[:, :, None] * a, 1, keep_dims=True)
    out *= factor
    if ADDED:
        at, inside = _at_rows(Added, key, keys, width, BD)
        out += tl.load(at, mask=inside, other=0.0)
    at, inside = _at_rows(Out, key, keys, width, BD)
    tl.store(at, out, mask=inside)
