"""Mixtures of two rows of unit length that never exist as rows themselves.

The similarity of an anchor to h = (α u + β v)/‖·‖ is the mixture of its similarities to u and v,
and for α + β = 1 the norm needs only that of the two rows,

    ‖α u + β v‖² = (α − β)² + 2αβ (1 + ⟨u, v⟩),

so that M mixtures for each of N anchors cost O(N·M) memory instead of O(N·M·d).
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.negatives import Columns, Mixtures, Negatives
from negplug.contract.rows import Rows
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.random.numbers import RandomNumbers
from negplug.kernels.torch_private import pair_products


@torch.no_grad()
def mixed_pairs(hard: Negatives, counts: Tensor, number: int, random: RandomNumbers) -> Negatives:
    """Return mixtures α n_i + (1 − α) n_j, α ~ U(0, 1), of two negatives of each anchor, i ≠ j.

    Args:
        hard: Chosen columns of one pool, the valid ones of an anchor first.
        counts: ``[N]`` int64, the number of valid ones; an anchor with one gets no mixture.
        number: M, of mixtures for each anchor.
        random: On the device of the pool.

    Returns:
        Mixtures ``[N, M]`` over the same pool, detached.
    """
    assert isinstance(hard.choice, Columns)
    columns = hard.choice.columns
    one, step, alpha = random.uniform(3, len(columns), number)
    several = counts.clamp(min=2)[:, None]
    place = (one * several).long()
    other = (place + 1 + (step * (several - 1)).long()) % several
    # An anchor with one negative has no second place; its mixtures are masked.
    last = columns.shape[1] - 1
    first, second = (columns.gather(1, each.clamp(max=last)) for each in (place, other))
    rows = hard.rows.detach()
    coefficients = _coefficients(1 - alpha, _similarities(rows.embeddings, first, second))
    mask = (counts >= 2)[:, None].expand_as(first)
    return Negatives(rows, Mixtures(first, second, coefficients, mask))


@torch.no_grad()
def mixed_with_anchors(
    anchors: Rows, hard: Negatives, counts: Tensor, number: int, random: RandomNumbers
) -> Negatives:
    """Return mixtures β a + (1 − β) n_j, β ~ U(0, ½), of each anchor and a negative of it.

    Args:
        anchors: N rows.
        hard: As in :func:`mixed_pairs`.
        counts: Likewise, but one negative is enough.
        number: M.
        random: Likewise.

    Returns:
        Mixtures ``[N, M]`` over a pool of its own, detached.
    """
    assert isinstance(hard.choice, Columns)
    one, half = random.uniform(2, len(hard.choice.columns), number)
    chosen = hard.choice.columns.gather(1, (one * counts.clamp(min=1)[:, None]).long())
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
        _coefficients(half / 2, similarities),
        (counts >= 1)[:, None].expand_as(columns),
    )
    return Negatives(Rows.joined([source, own]), choice)


def _similarities(pool: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return ⟨p, q⟩ for pairs of rows of one pool, ``[N, M]``, without an ``[N, M, d]`` tensor."""
    rows = pool.contiguous()
    return pair_products(rows, rows, first.reshape(-1), second.reshape(-1)).view(first.shape)


def _coefficients(second: Tensor, similarities: Tensor) -> Tensor:
    """Return what a unit mixture takes of two rows, ``[N, M, 2]``; ``second`` before scaling."""
    second = second.to(similarities)
    first = 1 - second
    squared = (first - second) ** 2 + 2 * first * second * (1 + similarities).clamp(min=0)
    # The middle of two opposite rows has no direction: it stays short, it is not blown-up noise.
    length = squared.clamp(min=torch.finfo(squared.dtype).eps).sqrt()
    return torch.stack([first / length, second / length], dim=-1)
