"""A pool seen as images: which of its rows are views of the same sample.

The views of an image enter a batch together, so a chain over single views would be proposed the
sibling of its own state far too often and never reach the softmax (detailed balance fails). A
chain over images does: image c weighs W_ic = mean_u e^{s(a_i, z_cu)/τ} over its views u, and inside
an image a view has its conditional probability, the softmax over the views.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from negplug.batch import ContrastiveBatch
from negplug.exclusion import BEYOND, comparable_ids
from negplug.negatives import Negatives
from negplug.per_sample import occurrences
from negplug.sampler import NegativeSampler


class Images(NamedTuple):
    """The images of a pool.

    Attributes:
        indexes: ``[C]`` int64, data set index of each.
        ids: ``[C]`` int64; an anchor with this id may not have the image as a negative.
        rows: ``[V, C]`` int64, the row of each view in the pool; -1 where there is none.
    """

    indexes: Tensor
    ids: Tensor
    rows: Tensor

    def shuffled(self, generator: torch.Generator) -> Images:
        """Return the images in random order, in which they are then proposed."""
        count, device = len(self.indexes), self.indexes.device
        order = torch.randperm(count, generator=generator, device=device)
        return Images(self.indexes[order], self.ids[order], self.rows[:, order])

    def find(self, indexes: Tensor) -> Tensor:
        """Return the column of each of these images, ``[N]`` int64; -1 where it is not here."""
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
    return Images(known, pool.pool_ids[rows.amax(0)] if len(known) else known, rows)


def view_logits(batch: ContrastiveBatch, indexes: Tensor, pool: Tensor, images: Images) -> Tensor:
    """Return the logits ⟨a_i, z_cu⟩/τ, ``[V, N, C]``; -inf where there is no view or no negative.

    Args:
        batch: Anchors, ids and temperature.
        indexes: ``[N]`` int64, data set indexes of the anchors. Ids may number the rows of a batch
            alone, and a sample that is in it twice then has two.
        pool: ``[K, d]``.
        images: Its images.
    """
    number, count = images.rows.shape
    flat = images.rows.clamp(min=0).reshape(-1)
    logits = (batch.anchors / batch.temperature) @ pool[flat].T
    logits = logits.view(-1, number, count).transpose(0, 1)
    logits = logits.masked_fill((images.rows < 0)[:, None], -torch.inf)
    own = comparable_ids(batch.anchor_ids)[:, None] == images.ids
    return logits.masked_fill_(own | (indexes[:, None] == images.indexes), -torch.inf)


def image_logits(logits: Tensor) -> Tensor:
    """Return log mean_u e^{s_u} of an image's views, ``[…]`` from ``[V, …]``; -inf if none."""
    if len(logits) == 1:
        return logits[0]
    present = (logits > -torch.inf).sum(0)
    return torch.logsumexp(logits, 0) - present.clamp(min=1).to(logits).log()


def view_shares(logits: Tensor) -> Tensor:
    """Return the probability of each view inside its image, ``[V, …]``; 0 where there is none."""
    if len(logits) == 1:
        return (logits > -torch.inf).to(logits)
    return torch.softmax(logits.clamp(min=torch.finfo(logits.dtype).min), 0).where(
        logits > -torch.inf, 0.0
    )
