"""Triton programs of chains' states: a few anchors each.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def logits_of_states(
    Table,
    Known,
    State,
    Place,
    Initial,
    Anchors,
    Columns,
    Logits,
    LogNumber,
    Scores,
    Present,
    factor,
    length,
    views,
    anchors,
    width,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Write the logits of some anchors with the views of their states, and of the states."""
    row = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    inside = row < anchors
    kind = Logits.dtype.element_ty
    state = tl.load(State + row, mask=inside, other=-1)
    away = (state >= 0) & (tl.load(Place + row, mask=inside, other=0) < 0)
    there = away & (state < length)
    here = tl.where(there, state, 0)
    highest = tl.full([BN], float("-inf"), kind)
    sums = tl.zeros([BN], kind)
    number = tl.zeros([BN], tl.int32)
    for view in range(0, views):
        column = view * length + here
        tl.store(Columns + row * views + view, column, mask=inside)
        present = tl.load(Known + column, mask=there, other=0) != 0
        product = tl.zeros([BN], kind)
        for start in range(0, width, BD):
            dim = start + tl.arange(0, BD)
            read = (present & inside)[:, None] & (dim[None, :] < width)
            own = tl.load(Anchors + row[:, None] * width + dim[None, :], mask=read, other=0.0)
            at = Table + column[:, None] * width + dim[None, :]
            product += tl.sum(own * tl.load(at, mask=read, other=0.0).to(kind), 1)
        logit = tl.where(present, product * factor, float("-inf")).to(kind)
        tl.store(Logits + view * anchors + row, logit, mask=inside)
        after = tl.maximum(highest, logit)
        shift = tl.where(after == float("-inf"), 0.0, after)
        sums = sums * tl.exp(highest - shift) + tl.exp(logit - shift)
        highest = after
        number += present.to(tl.int32)
    log_number = tl.log(tl.maximum(number, 1).to(kind))
    score = highest + tl.log(tl.where(sums == 0, 1.0, sums)) - log_number
    tl.store(LogNumber + row, log_number, mask=inside)
    tl.store(Scores + row, score, mask=inside)
    initial = tl.load(Initial + row, mask=inside, other=0.0)
    tl.store(Present + row, tl.where(away, score, initial), mask=inside)


@triton.jit
def weights_of_states(
    Logits,
    LogNumber,
    Scores,
    Weight,
    Out,
    tiny,
    views,
    anchors,
    BN: tl.constexpr,
):
    """Write the log weights of the views of some states."""
    row = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    inside = row < anchors
    weight = tl.load(Weight + row, mask=inside, other=0.0)
    score = tl.load(Scores + row, mask=inside, other=0.0)
    drawn = (weight > tiny) & (score > float("-inf"))
    scale = tl.log(tl.where(drawn, weight, 1.0)) - tl.where(drawn, score, 0.0)
    scale -= tl.load(LogNumber + row, mask=inside, other=0.0)
    for view in range(0, views):
        logit = tl.load(Logits + view * anchors + row, mask=inside, other=0.0)
        value = tl.where(drawn, logit + scale, float("-inf"))
        tl.store(Out + row * views + view, value.to(Out.dtype.element_ty), mask=inside)
