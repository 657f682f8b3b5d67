"""A pool seen as images: which of its rows are views of the same sample.

The views of an image enter a batch together, so a chain over single views would be proposed the
sibling of its own state far too often and never reach the softmax (detailed balance fails). A
chain over images does: image c weighs W_ic = mean_u e^{s(a_i, z_cu)/τ} over its views u, and inside
an image a view has its conditional probability, the softmax over the views.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import BEYOND
from negplug.contract.negatives import Negatives
from negplug.contract.sample_table import occurrences
from negplug.contract.sampler import NegativeSampler


class Images(NamedTuple):
    """The images of a pool.

    Attributes:
        indexes: ``[C]`` int64, data set index of each.
        rows: ``[V, C]`` int64, the row of each view in the pool; -1 where there is none.
    """

    indexes: Tensor
    rows: Tensor

    def shuffled(self, generator: torch.Generator) -> Images:
        """Return the images in random order, in which they are then proposed."""
        count, device = len(self.indexes), self.indexes.device
        order = torch.randperm(count, generator=generator, device=device)
        return Images(self.indexes[order], self.rows[:, order])

    def find(self, indexes: Tensor) -> Tensor:
        """Return the column of each of these images, ``[…]`` int64; -1 where it is not here."""
        ordered, order = self.indexes.sort()
        column = order[torch.searchsorted(ordered, indexes).clamp_(max=len(ordered) - 1)]
        return column.where(self.indexes[column] == indexes, -1)


def whole_pool(name: str, source: NegativeSampler, batch: ContrastiveBatch) -> Negatives:
    """Return what ``source`` offers to the sampler ``name``: one pool, all of its rows.

    Raises:
        ValueError: If it offers anything else, or in training rows that nobody knows the owners of.
    """
    pool: Negatives = source(batch)
    chosen = (pool.columns, pool.mask, pool.log_weight, pool.partners)
    if pool.others or any(part is not None for part in chosen):
        raise ValueError(no_whole_pool(name, source))
    if batch.training and batch.indexes is not None and pool.pool_indexes is None:
        raise ValueError(
            f"{name}: nobody knows which samples the rows of {source} are; give it a source whose "
            f"rows come from this run's batches"
        )
    return pool


def no_whole_pool(name: str, source: NegativeSampler) -> str:
    """Return the message about a source that is none."""
    return (
        f"{name}: proposes whole images, so its source must offer all rows of one pool, as "
        f"in_batch(), gather(), queue() and memory_bank() do; {source} chooses among them"
    )


def images_of(batch: ContrastiveBatch, pool: Negatives) -> Images:
    """Group the rows of a pool by image.

    A view of an image that is in the pool twice (a distributed sampler pads with such) is the
    first of them. Where nobody says which view a row is, those of an image are numbered as they
    occur.

    Args:
        batch: Knows the views of its keys.
        pool: A whole pool of known samples.
    """
    indexes, views = pool.pool_indexes, None
    assert indexes is not None
    for keys in (batch, batch.gathered()):
        if pool.pool is keys.keys:
            views = keys.key_views
    known, image = torch.unique(indexes, return_inverse=True)
    view = occurrences(indexes) if views is None else views
    number = int(view.max()) + 1 if len(view) else 1
    row = torch.arange(len(indexes), device=indexes.device)
    rows = row.new_full((number * len(known),), BEYOND)
    rows.scatter_reduce_(0, view * len(known) + image, row, "amin")
    rows = rows.masked_fill_(rows == BEYOND, -1).view(number, len(known))
    return Images(known, rows)


def image_logits(logits: Iterable[Tensor], log_number: Tensor) -> Tensor:
    """Return log mean_u e^{s_u} of an image's views, ``[…]``; -inf if none.

    Args:
        logits: ``[…]`` of each view; -inf where there is none.
        log_number: The logarithm of how many views there are, broadcastable to ``[…]``.
    """
    together: Tensor = functools.reduce(torch.logaddexp, logits)
    return together - log_number


def log_shares_(scores: Tensor, log_number: Tensor, shares: Tensor) -> Tensor:
    """Return what the logit of a view lacks of the logarithm of its weight, ``[…]``.

    That is the share of its image times the probability of the view inside it; -inf where a share
    is 0, or too small for a normal number. It is written over the shares, and the scores are lost
    as well.

    Args:
        scores: ``[…]``, of the images.
        log_number: As for :func:`image_logits`.
        shares: ``[…]``.
    """
    limits = torch.finfo(scores.dtype)
    # A logarithm of 0 takes thirty times as long as any other.
    each = shares.clamp_(min=limits.tiny).log_()
    torch.threshold_(each, math.log(2 * limits.tiny), -math.inf)
    return each.sub_(scores.clamp_(min=limits.min)).sub_(log_number)
