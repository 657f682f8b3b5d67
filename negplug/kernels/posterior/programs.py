"""Triton programs of weighted draws: weights, means of chosen rows, products, gradients.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weights_of_draws(
    LogWeight,
    Mask,
    AnchorIds,
    RowIds,
    Weights,
    Before,
    Total,
    tiny,
    most,
    anchors,
    entries,
    log_row,
    log_entry,
    mask_row,
    mask_entry,
    weight_row,
    weight_entry,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    EXCLUDED: tl.constexpr,
    MORE: tl.constexpr,
    BN: tl.constexpr,
    BE: tl.constexpr,
):
    """Write the weights of some anchors' entries, and their sums, to which more may be added."""
    row = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    here = row < anchors
    kind = Weights.dtype.element_ty
    total = tl.zeros([BN], kind)
    if MORE:
        total += tl.load(Before + row, mask=here, other=0.0)
    if EXCLUDED:
        anchor = tl.load(AnchorIds + row, mask=here, other=0)
    for start in range(0, entries, BE):
        entry = (start + tl.arange(0, BE)).to(tl.int64)
        inside = here[:, None] & (entry[None, :] < entries)
        weight = tl.full([BN, BE], 1.0, kind)
        if WEIGHTED:
            at = LogWeight + row[:, None] * log_row + entry[None, :] * log_entry
            weight = tl.exp(tl.minimum(tl.load(at, mask=inside, other=0.0).to(kind), most))
            weight = tl.where(weight <= tiny, 0.0, weight)
        drawn = inside
        if MASKED:
            at = Mask + row[:, None] * mask_row + entry[None, :] * mask_entry
            drawn &= tl.load(at, mask=inside, other=0) != 0
        if EXCLUDED:
            ids = tl.load(RowIds + entry, mask=entry < entries, other=0)
            drawn &= anchor[:, None] != ids[None, :]
        weight = tl.where(drawn, weight, 0.0).to(kind)
        total += tl.sum(weight, 1)
        at = Weights + row[:, None] * weight_row + entry[None, :] * weight_entry
        tl.store(at, weight, mask=inside)
    tl.store(Total + row, total, mask=here)


@triton.jit
def mean_of_columns(
    Before,
    Weights,
    Columns,
    Pool,
    Mean,
    anchors,
    entries,
    width,
    weight_row,
    weight_entry,
    column_row,
    column_entry,
    MORE: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Write the weighted sum of chosen rows, to which more may be added."""
    row = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    dim = tl.program_id(1) * BD + tl.arange(0, BD)
    here = row < anchors
    inside = here[:, None] & (dim[None, :] < width)
    at = row[:, None] * width + dim[None, :]
    mean = tl.zeros([BN, BD], Mean.dtype.element_ty)
    if MORE:
        mean += tl.load(Before + at, mask=inside, other=0.0)
    for entry in range(0, entries):
        weight = tl.load(Weights + row * weight_row + entry * weight_entry, mask=here, other=0.0)
        column = tl.load(Columns + row * column_row + entry * column_entry, mask=here, other=0)
        drawn = inside & (weight > 0)[:, None]
        chosen = tl.load(Pool + column[:, None] * width + dim[None, :], mask=drawn, other=0.0)
        mean += weight[:, None] * chosen
    tl.store(Mean + at, mean, mask=inside)


@triton.jit
def products_of_rows(
    Anchors, Mean, Total, Value, factor, anchors, width, BN: tl.constexpr, BD: tl.constexpr
):
    """Write the product of each row with its mean, -inf where nothing was drawn."""
    row = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    here = row < anchors
    product = tl.zeros([BN], Value.dtype.element_ty)
    for start in range(0, width, BD):
        dim = start + tl.arange(0, BD)
        inside = here[:, None] & (dim[None, :] < width)
        at = row[:, None] * width + dim[None, :]
        a = tl.load(Anchors + at, mask=inside, other=0.0)
        product += tl.sum(a * tl.load(Mean + at, mask=inside, other=0.0), 1)
    total = tl.load(Total + row, mask=here, other=0.0)
    tl.store(Value + row, tl.where(total == 0, float("-inf"), product * factor), mask=here)


@triton.jit
def gradients_of_rows(
    Grad,
    Mean,
    Total,
    Anchors,
    ToAnchors,
    Scaled,
    factor,
    anchors,
    width,
    grad_row,
    POOLS: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Write the gradient of each row, and what a pool's gradient is a product with."""
    row = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    dim = tl.program_id(1) * BD + tl.arange(0, BD)
    here = row < anchors
    inside = here[:, None] & (dim[None, :] < width)
    at = row[:, None] * width + dim[None, :]
    total = tl.load(Total + row, mask=here, other=0.0)
    grad = tl.load(Grad + row * grad_row, mask=here, other=0.0) * factor
    grad = tl.where(total == 0, 0.0, grad).to(Mean.dtype.element_ty)[:, None]
    tl.store(ToAnchors + at, grad * tl.load(Mean + at, mask=inside, other=0.0), mask=inside)
    if POOLS:
        tl.store(Scaled + at, grad * tl.load(Anchors + at, mask=inside, other=0.0), mask=inside)
