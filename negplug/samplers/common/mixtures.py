"""Mixtures of two rows of unit length that never exist as rows themselves.

The similarity of an anchor to h = (α u + β v)/‖·‖ is the mixture of its similarities to u and v,
and the norm needs only that of the two rows (:mod:`negplug.kernels.mixing`), so that M mixtures
for each of N anchors cost O(N·M) memory instead of O(N·M·d).
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.negatives import Columns, Mixtures, Negatives
from negplug.contract.rows import Rows
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.mixing import unit_coefficients, unit_mixtures
from negplug.kernels.random.numbers import RandomNumbers


@torch.no_grad()
def mixed_pairs(hard: Negatives, number: int, random: RandomNumbers) -> Negatives:
    """Return mixtures α n_i + (1 − α) n_j, α ~ U(0, 1), of two negatives of each anchor, i ≠ j.

    Args:
        hard: Two or more columns of one pool for each anchor, the valid ones first. An anchor with
            one valid column gets no mixture.
        number: M, of mixtures for each anchor.
        random: On the device of the pool.

    Returns:
        Mixtures ``[N, M]`` over the same pool, detached.
    """
    assert isinstance(hard.choice, Columns)
    columns = hard.choice.columns
    numbers, mask = _numbers(hard, 2)
    rows = hard.rows.detach()
    drawn = random.uniform(3, len(columns), number)
    first, second, coefficients = unit_mixtures(rows.embeddings, columns, numbers, drawn)
    return Negatives(rows, Mixtures(first, second, coefficients, _of_each(mask, first)))


@torch.no_grad()
def mixed_with_anchors(
    anchors: Rows, hard: Negatives, number: int, random: RandomNumbers
) -> Negatives:
    """Return mixtures β a + (1 − β) n_j, β ~ U(0, ½), of each anchor and a negative of it.

    Args:
        anchors: N rows.
        hard: As in :func:`mixed_pairs`, but one column is enough.
        number: M.
        random: As in :func:`mixed_pairs`.

    Returns:
        Mixtures ``[N, M]`` over a pool of its own, detached.
    """
    assert isinstance(hard.choice, Columns)
    some, mask = _numbers(hard, 1)
    one, half = random.uniform(2, len(hard.choice.columns), number)
    chosen = hard.choice.columns.gather(1, one.mul_(some).long())
    # One pool of the anchors and the rows drawn, or of the source if that is smaller.
    source, columns, own = hard.rows.detach(), chosen, anchors.detach()
    if chosen.numel() < len(source):
        source = source.select(chosen.flatten())
        columns = torch.arange(len(source), device=chosen.device).view_as(chosen)
    itself = len(source) + torch.arange(len(own), device=chosen.device)
    similarities = chosen_similarities(own.embeddings, source.embeddings, columns)
    choice = Mixtures(
        columns,
        itself[:, None].expand_as(columns),
        unit_coefficients(1 - half / 2, similarities),
        _of_each(mask, columns),
    )
    return Negatives(Rows.joined([source, own]), choice)


def _numbers(hard: Negatives, least: int) -> tuple[Tensor | int, Tensor | None]:
    """Return how many valid columns each anchor has, and which anchors have ``least`` or more.

    Returns:
        ``[N, 1]`` int64, ``least`` where there are fewer, and ``[N, 1]`` bool; their number and
        None where it is known that all columns are valid.
    """
    if hard.mask is None:
        return hard.width, None
    number = hard.mask.sum(1, keepdim=True)
    return number.clamp(min=least), number >= least


def _of_each(mask: Tensor | None, entries: Tensor) -> Tensor | None:
    return None if mask is None else mask.expand_as(entries)
