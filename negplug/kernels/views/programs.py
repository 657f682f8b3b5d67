"""Triton programs of samples and their views: a tile of samples and anchors each.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scores_of_samples(
    Logits,
    Rows,
    Own,
    Samples,
    AnchorIds,
    RowIds,
    Scores,
    log_number,
    empty,
    samples,
    anchors,
    number,
    PADDED: tl.constexpr,
    NAMED: tl.constexpr,
    BC: tl.constexpr,
    BN: tl.constexpr,
):
    """Write log mean e^s over the views of samples, -inf of what is excluded."""
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    anchor = tl.program_id(1) * BN + tl.arange(0, BN)
    here, there = column < samples, anchor < anchors
    inside = here[:, None] & there[None, :]
    kind = Scores.dtype.element_ty
    own = tl.load(Own + anchor, mask=there, other=-1)
    serves = column[:, None] != own[None, :]
    if PADDED:
        serves &= (tl.load(Samples + column, mask=here, other=0) != empty)[:, None]
    if NAMED:
        ids = tl.load(AnchorIds + anchor, mask=there, other=-1)
    highest = tl.full([BC, BN], float("-inf"), kind)
    sums = tl.zeros([BC, BN], kind)
    for view in range(0, number):
        row = tl.load(Rows + view * samples + column, mask=here, other=0)
        at = row[:, None] * anchors + anchor[None, :]
        logit = tl.load(Logits + at, mask=inside, other=float("-inf"))
        after = tl.maximum(highest, logit)
        shift = tl.where(after == float("-inf"), 0.0, after)
        sums = sums * tl.exp(highest - shift) + tl.exp(logit - shift)
        highest = after
        if NAMED:
            others = tl.load(RowIds + row, mask=here, other=-1)
            serves &= (others[:, None] != ids[None, :]) | (ids == -1)[None, :]
    score = highest + tl.log(tl.where(sums == 0, 1.0, sums)) - log_number
    at = column[:, None].to(tl.int64) * anchors + anchor[None, :]
    tl.store(Scores + at, tl.where(serves, score, float("-inf")).to(kind), mask=inside)


@triton.jit
def weights_of_views(
    Logits,
    Rows,
    Scores,
    Weights,
    log_number,
    tiny,
    samples,
    anchors,
    number,
    BC: tl.constexpr,
    BN: tl.constexpr,
):
    """Write the log weights of all views of samples over their logits."""
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    anchor = tl.program_id(1) * BN + tl.arange(0, BN)
    here = column < samples
    inside = here[:, None] & (anchor < anchors)[None, :]
    at = column[:, None].to(tl.int64) * anchors + anchor[None, :]
    score = tl.load(Scores + at, mask=inside, other=float("-inf"))
    weight = tl.load(Weights + at, mask=inside, other=0.0)
    drawn = (weight > tiny) & (score > float("-inf"))
    log_weight = tl.log(tl.where(drawn, weight, 1.0)) - tl.where(drawn, score, 0.0) - log_number
    for view in range(0, number):
        row = tl.load(Rows + view * samples + column, mask=here, other=0)
        place = Logits + row[:, None] * anchors + anchor[None, :]
        logit = tl.load(place, mask=inside, other=0.0)
        value = tl.where(drawn, logit + log_weight, float("-inf"))
        tl.store(place, value.to(Logits.dtype.element_ty), mask=inside)
