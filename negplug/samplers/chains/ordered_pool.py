"""A pool with its rows in the order of its samples, and what anchors have to do with both.

Rows of a view lie together, sample after sample. Where all samples have the same views, nothing
need be gathered to go from rows to samples, or scattered to go back. Samples with fewer views, as
most of a queue's are, are left out of a view's rows: there are never more rows than in the pool.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.exclusion import excluded_pairs, remember_pairs
from negplug.contract.ids import comparable_ids
from negplug.contract.rows import Rows
from negplug.kernels.late import free_to_read
from negplug.kernels.views.gathering import log_scale
from negplug.samplers.chains.grouping import PooledSamples


class OrderedPool(NamedTuple):
    """A whole pool with its rows in the order of its samples, view after view.

    Attributes:
        pool: The pool, R rows.
        samples: Its samples.
        columns: For each view, which of the samples have it, int64; None if all have.
        log_number: The logarithm of how many views a sample has, ``[C, 1]`` where it depends.
    """

    pool: Rows
    samples: PooledSamples
    columns: tuple[Tensor | None, ...]
    log_number: float | Tensor

    @classmethod
    def of(cls, pool: Rows, samples: PooledSamples) -> OrderedPool:
        """Put the rows of a pool in order; those that are no view of a sample are left out."""
        if samples.complete and not samples.padded:
            rows, views = samples.rows.flatten(), len(samples.rows)
            return cls(_selected(pool, rows), samples, (None,) * views, math.log(views))
        present = samples.rows >= 0
        columns: tuple[Tensor | None, ...] = (None,) * len(present)
        if not samples.complete:
            numbers = present.sum(1).tolist()
            columns = tuple(
                None if number == len(samples.indexes) else here.nonzero()[:, 0]
                for here, number in zip(present, numbers, strict=True)
            )
        whole = all(column is None for column in columns)
        # In place of a sample that is missing, some row of which nothing is drawn.
        rows = samples.rows.flatten().clamp(min=0) if whole else samples.rows[present]
        ordered = _selected(pool, rows)
        log_number = present.sum(0).clamp_(min=1).to(ordered.embeddings.dtype).log_()[:, None]
        return cls(ordered, samples, columns, log_number)

    def views(self, values: Tensor) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Yield of values ``[R, …]`` those of each view, after the samples that have it."""
        count = self.samples.indexes.shape[0]
        if self.columns.count(None) == len(self.columns):
            views = values.view(len(self.columns), count, *values.shape[1:])
            return zip(self.columns, views, strict=True)
        sizes = [count if column is None else len(column) for column in self.columns]
        return zip(self.columns, torch.split(values, sizes), strict=True)

    def row_logits(self, batch: ContrastiveBatch) -> Tensor:
        """Return the logits ⟨a_i, k_j⟩/τ of all rows, ``[R, N]``."""
        return logits_of(self.pool, batch)

    def spread(self, logits: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
        """Return the log weights of rows, ``[R, N]``; their logits are used up.

        Into the same memory: a CPU takes ten times as long for a sum that is written elsewhere.

        Args:
            logits: Of all rows.
            scores: ``[C, N]``, of the samples.
            weights: ``[C, N]``, of the samples.
        """
        each = log_scale(weights, scores, self.log_number)
        for column, view in self.views(logits):
            view.add_(each if column is None else each[column])
        return logits

    def scores(self, batch: ContrastiveBatch, own: Tensor, logits: Tensor) -> Tensor:
        """Return the logits of samples, ``[C, N]``; -inf of what is no negative.

        Args:
            batch: Anchors and ids.
            own: ``[N]`` int64, the column of each anchor's own sample, -1 if it is not here.
            logits: Of all rows.
        """
        views = list(self.views(logits))
        every = [view for column, view in views if column is None]
        shape = len(self.samples.indexes), len(batch.anchors)
        together: Tensor = functools.reduce(
            torch.logaddexp, every or [logits.new_full(shape, -torch.inf)]
        )
        if len(every) < len(views):
            together = together.clone()
        for column, view in views:
            if column is not None:
                both = torch.logaddexp(together.index_select(0, column), view)
                together.index_copy_(0, column, both)
        scores = together - self.log_number
        if free_to_read(scores.device):
            self._exclude_pairs(batch, own, scores)
        else:
            self._exclude_by_masks(batch, own, scores)
        if self.samples.padded:
            scores.masked_fill_(self.samples.missing[:, None], -torch.inf)
        return scores

    def _exclude_pairs(self, batch: ContrastiveBatch, own: Tensor, scores: Tensor) -> None:
        """Write -inf to pairs of anchors and samples: the same, or with a row of the same id.

        A few entries: quicker one by one than by a mask over all.
        """
        (anchor,) = (own.numpy() >= 0).nonzero()
        column, count = own.numpy()[anchor], len(self.samples.indexes)
        place = torch.from_numpy(column * len(batch.anchors) + anchor)
        if ids_are_indexes(batch, self.pool):
            if all(each is None for each in self.columns):
                rows = np.concatenate([column + count * n for n, _ in enumerate(self.columns)])
                pairs = np.tile(anchor, len(self.columns)), rows
                remember_pairs(batch, self.pool, *map(torch.from_numpy, pairs))
        else:
            # Ids may number the rows of a batch alone; a sample that is in it twice then has two.
            others, row = excluded_pairs(batch, self.pool)
            place = torch.cat([place, self._sample[row] * len(batch.anchors) + others])
        scores.view(-1).index_fill_(0, place, -torch.inf)

    def _exclude_by_masks(self, batch: ContrastiveBatch, own: Tensor, scores: Tensor) -> None:
        """Do the same without waiting for a device."""
        every = torch.arange(len(scores), device=own.device)
        scores.masked_fill_(own == every[:, None], -torch.inf)
        if ids_are_indexes(batch, self.pool):
            return
        wanted = comparable_ids(batch.anchors.ids)
        for column, ids in self.views(self.pool.ids):
            same = wanted == ids[:, None]
            if column is None:
                scores.masked_fill_(same, -torch.inf)
            else:
                scores.index_put_((column,), scores[column].masked_fill_(same, -torch.inf))

    @property
    def _sample(self) -> Tensor:
        """``[R]`` int64, the sample of each row."""
        every = torch.arange(len(self.samples.indexes), device=self.pool.ids.device)
        return torch.cat([every if each is None else each for each in self.columns])


def _selected(pool: Rows, rows: Tensor) -> Rows:
    with torch.enable_grad():
        return replace(pool.select(rows), name=f"{pool.name}, ordered by sample")


def logits_of(pool: Rows, batch: ContrastiveBatch) -> Tensor:
    """Return the logits ⟨a_i, k_j⟩/τ of all rows of a pool, ``[R, N]``."""
    keys, anchors = pool.embeddings, batch.anchors.embeddings
    logits = keys.new_empty(len(keys), len(anchors))
    return logits.addmm_(keys, anchors.T, beta=0, alpha=1 / batch.temperature)


def ids_are_indexes(batch: ContrastiveBatch, pool: Rows) -> bool:
    """Return whether ids are nothing but data set indexes, as far as is known."""
    return all(rows.ids_are_indexes for rows in (batch.anchors, pool))
