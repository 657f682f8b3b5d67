"""Launches of the Triton programs of chosen columns: how they are cut, and with what.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.kernels.chosen.programs import (
    logsumexp_of_pairs,
    similarities_of_pairs,
    sums_by_anchor,
    sums_by_key,
)
from negplug.kernels.launching import launch
from negplug.kernels.sizes import cdiv, power_of_2

_LOG2E = math.log2(math.e)

WIDEST = 2**11
"""Numbers of a row: beyond, a program cannot hold two."""

# Numbers that a program holds at a time; Triton's interpreter pays for each program.
_HELD = {"cpu": 2**18}
_HELD_ELSEWHERE = 2 * WIDEST
_WARPS = 4


class Cut(NamedTuple):
    """What a program takes at a time; powers of two.

    Attributes:
        rows: Anchors, or rows of the pool.
        places: Pairs of each.
        width: Numbers of a row.
    """

    rows: int
    places: int
    width: int

    @classmethod
    def of(cls, rows: int, places: int, width: int, device: torch.device) -> Cut:
        """Return the cut for so many rows of a width, of so many pairs each."""
        held = _HELD.get(device.type, _HELD_ELSEWHERE)
        width = power_of_2(width)
        places = min(power_of_2(max(places, 1)), held // width)
        # Several rows take more registers, and few programs leave a device idle.
        rows = min(power_of_2(max(rows, 1)), max(held // 2 // (width * places), 1))
        return cls(rows, places, width)


class Pairs(NamedTuple):
    """Chosen pairs, for the gradient of the pool.

    Attributes:
        keys: ``[N, M]`` integers: a pair's column, K where its mask leaves it out.
        number: K.
        logits: ``[N, M]``, weighted, in powers of two, of a log-sum-exp.
        total: ``[N]``, their log-sum-exp.
    """

    keys: Tensor
    number: int
    logits: Tensor | None = None
    total: Tensor | None = None


def similarities(
    anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None, pairs: bool
) -> tuple[Tensor, Pairs | None]:
    """Return ⟨a_i, k_{c(i,m)}⟩, ``[N, M]``, 0 where masked, and the pairs where they are wanted."""
    (rows, choices), width = columns.shape, anchors.shape[1]
    out = anchors.new_empty(rows, choices)
    keys = _keys(columns, len(pool)) if pairs else None
    cut = Cut.of(rows, choices, width, anchors.device)
    launch(
        similarities_of_pairs,
        (cdiv(rows, cut.rows), cdiv(choices, cut.places)),
        anchors,
        pool,
        columns,
        # An argument that a program does not read must be a tensor all the same.
        columns if mask is None else mask.view(torch.uint8),
        out,
        out if keys is None else keys,
        rows,
        len(pool),
        choices,
        width,
        *_strides(mask, rows),
        BR=cut.rows,
        BM=cut.places,
        BD=cut.width,
        MASKED=mask is not None,
        KEYS=pairs,
        num_warps=_WARPS,
    )
    return out, None if keys is None else Pairs(keys, len(pool))


def logsumexp(
    anchors: Tensor,
    pool: Tensor,
    columns: Tensor,
    temperature: float,
    log_weight: Tensor | None,
    mask: Tensor | None,
    slope: bool,
    pairs: bool,
) -> tuple[Tensor, Tensor | None, Pairs | None]:
    """Return ℓ ``[N]`` and, where they are wanted, ∂ℓ_i/∂a_i ``[N, d]`` and the pairs."""
    (rows, choices), width = columns.shape, anchors.shape[1]
    value = anchors.new_empty(rows)
    slopes = torch.empty_like(anchors) if slope else None
    found = None
    if pairs:
        logits = anchors.new_empty(rows, choices)
        found = Pairs(_keys(columns, len(pool)), len(pool), logits, torch.empty_like(value))
    cut = Cut.of(rows, choices, width, anchors.device)
    launch(
        logsumexp_of_pairs,
        (cdiv(rows, cut.rows),),
        anchors,
        pool,
        columns,
        value if log_weight is None else log_weight,
        columns if mask is None else mask.view(torch.uint8),
        value,
        value if slopes is None else slopes,
        value if found is None else found.logits,
        value if found is None else found.total,
        value if found is None else found.keys,
        rows,
        len(pool),
        choices,
        width,
        _LOG2E / temperature,
        1.0 / temperature,
        *_strides(log_weight, rows),
        *_strides(mask, rows),
        BR=cut.rows,
        BM=cut.places,
        BD=cut.width,
        WEIGHTED=log_weight is not None,
        MASKED=mask is not None,
        SLOPE=slope,
        KEYS=pairs,
        num_warps=_WARPS,
    )
    return value, slopes, found


def anchor_sums(pool: Tensor, pairs: Pairs, grad: Tensor) -> Tensor:
    """Return Σ_m g_im k_{c(i,m)}, ``[N, d]``, of gradients ``[N, M]``."""
    (rows, choices), width = pairs.keys.shape, pool.shape[1]
    out = pool.new_empty(rows, width)
    cut = Cut.of(rows, choices, width, pool.device)
    launch(
        sums_by_anchor,
        (cdiv(rows, cut.rows),),
        pool,
        pairs.keys,
        grad.contiguous(),
        out,
        rows,
        pairs.number,
        choices,
        width,
        BR=cut.rows,
        BM=cut.places,
        BD=cut.width,
        num_warps=_WARPS,
    )
    return out


def key_sums(
    anchors: Tensor, pairs: Pairs, grad: Tensor, factor: float, added: Tensor | None
) -> Tensor:
    """Return factor · Σ g_im a_i over the pairs of each row of the pool, ``[K, d]``.

    Args:
        anchors: ``[N, d]``.
        pairs: Of similarities, or of a log-sum-exp.
        grad: That of the similarities, ``[N, M]``, or of the log-sum-exp, ``[N]``.
        factor: What the sums are multiplied by.
        added: ``[K, d]``, what is added to them.
    """
    (_, choices), width = pairs.keys.shape, anchors.shape[1]
    ordered, order = pairs.keys.view(-1).sort(stable=True)
    out = anchors.new_empty(pairs.number, width)
    grad = grad.contiguous()
    mean = len(order) // max(pairs.number, 1)
    cut = Cut.of(pairs.number, max(mean, 16), width, anchors.device)
    launch(
        sums_by_key,
        (cdiv(pairs.number, cut.rows),),
        anchors,
        ordered,
        order,
        grad if pairs.logits is None else pairs.logits,
        grad if pairs.total is None else pairs.total,
        grad,
        grad if added is None else added,
        out,
        pairs.number,
        len(order),
        choices,
        width,
        len(order).bit_length(),
        factor,
        BK=cut.rows,
        BP=cut.places,
        BD=cut.width,
        SOFTMAX=pairs.logits is not None,
        ADDED=added is not None,
        num_warps=_WARPS,
    )
    return out


def _keys(columns: Tensor, number: int) -> Tensor:
    """Return room for the keys of pairs, which sort the quicker the fewer bits they have."""
    fits = number <= torch.iinfo(torch.int16).max
    return torch.empty_like(columns, dtype=torch.int16 if fits else torch.int32)


def _strides(values: Tensor | None, rows: int) -> tuple[int, int]:
    """Return how far apart entries ``[N|1, M]`` are, from row to row and in a row."""
    if values is None:
        return 0, 0
    return values.stride(0) if len(values) == rows else 0, values.stride(1)
