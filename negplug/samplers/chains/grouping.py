"""A pool seen as samples: which of its rows are views of the same sample.

The views of a sample enter a batch together, so a chain over single views would be proposed the
sibling of its own state far too often and never reach the softmax (detailed balance fails). A
chain over samples does: sample c weighs W_ic = mean_u e^{s(a_i, z_cu)/τ} over its views u, and
inside a sample a view has its conditional probability, the softmax over the views.
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
from negplug.contract.rows import Rows
from negplug.contract.sample_table import occurrences
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import known
from negplug.kernels.random.numbers import RandomNumbers


class PooledSamples(NamedTuple):
    """The samples of a pool.

    Attributes:
        indexes: ``[C]`` int64, data set index of each; :data:`BEYOND` at the end, where there are
            fewer.
        rows: ``[V, C]`` int64, the row of each view in the pool; -1 where there is none.
        complete: Whether it is known that each that is here has all views.
        padded: Whether there may be fewer.
    """

    indexes: Tensor
    rows: Tensor
    complete: bool = False
    padded: bool = False

    @property
    def missing(self) -> Tensor:
        """``[C]`` bool, True where there is no sample."""
        return self.indexes == BEYOND

    def shuffled(self, random: RandomNumbers) -> PooledSamples:
        """Return the samples in random order, in which they are then proposed."""
        order = random.permutation(len(self.indexes), self.missing if self.padded else None)
        return self._replace(indexes=self.indexes[order], rows=self.rows[:, order])

    def find(self, indexes: Tensor) -> Tensor:
        """Return the column of each of these samples, ``[…]`` int64; -1 where it is not here."""
        ordered, order = self.indexes.sort()
        column = order[torch.searchsorted(ordered, indexes).clamp_(max=len(ordered) - 1)]
        return column.where(self.indexes[column] == indexes, -1)


def whole_pool(name: str, source: NegativeSampler, batch: ContrastiveBatch) -> Rows:
    """Return what ``source`` offers to the sampler ``name``: one pool, all of its rows.

    Raises:
        ValueError: If it offers anything else, or in training rows of unknown samples.
    """
    pools: tuple[Negatives, ...] = source(batch)
    pool = pools[0]
    if len(pools) > 1 or not pool.one_whole_pool or pool.log_weight is not None:
        raise ValueError(no_whole_pool(name, source))
    if batch.training and batch.anchors.indexes is not None and pool.rows.indexes is None:
        raise ValueError(
            f"{name}: it is unknown which samples the rows of {source} are; give it a source "
            f"whose rows come from this run's batches"
        )
    return pool.rows


def no_whole_pool(name: str, source: NegativeSampler) -> str:
    """Return the message about a source that is none."""
    return (
        f"{name}: proposes whole samples, so its source must offer all rows of one pool, as "
        f"in_batch(), gather(), queue() and memory_bank() do; {source} chooses among them"
    )


def samples_of(pool: Rows) -> PooledSamples:
    """Group the rows of a pool by sample.

    A view of a sample that is in the pool twice (a distributed sampler pads with such) is the
    first of them. Where the views of rows are unknown, those of a sample are numbered as they
    occur.

    Args:
        pool: Rows of known samples.
    """
    indexes = pool.indexes
    assert indexes is not None
    view = occurrences(indexes) if pool.views is None else pool.views
    if pool.num_views is None:
        samples, sample = torch.unique(indexes, return_inverse=True)
        number = int(view.max()) + 1 if len(view) else 1
    else:
        # Of a shape that is known before, so that a device need not be waited for.
        number = pool.num_views
        samples, sample = _numbered(indexes, len(indexes) // number)
    row = torch.arange(len(indexes), device=indexes.device)
    rows = row.new_full((number * len(samples),), BEYOND)
    rows.scatter_reduce_(0, view * len(samples) + sample, row, "amin")
    rows = rows.masked_fill_(rows == BEYOND, -1).view(number, len(samples))
    complete = pool.num_views is not None and len(samples) > 0
    return PooledSamples(samples, rows, complete, complete and _short(samples))


def _short(samples: Tensor) -> bool:
    """Return whether ascending samples may be padded."""
    return known(samples[-1] == BEYOND) is not False


def _numbered(indexes: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return ``[most]`` distinct indexes, ascending and padded, and the number of each entry's."""
    ordered, order = indexes.sort()
    new = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=new[1:])
    number = new.cumsum(0).sub_(1)
    samples = ordered.new_full((most,), BEYOND).scatter_(0, number, ordered)
    return samples, torch.empty_like(number).scatter_(0, order, number)


def sample_logits(logits: Iterable[Tensor], log_number: Tensor) -> Tensor:
    """Return log mean_u e^{s_u} of a sample's views, ``[…]``; -inf if none.

    Args:
        logits: ``[…]`` of each view; -inf where there is none.
        log_number: The logarithm of how many views there are, broadcastable to ``[…]``.
    """
    together: Tensor = functools.reduce(torch.logaddexp, logits)
    return together - log_number


def log_view_scale(scores: Tensor, log_number: Tensor, weights: Tensor) -> Tensor:
    """Return log(weight / Σ_u e^{s_u}) of samples, ``[…]``; -inf for a weight of 0.

    Added to the logit of a view it gives the logarithm of the view's weight: that of its sample
    times the view's probability inside it. Weights too small for a normal number count as 0.

    Args:
        scores: ``[…]``, log mean_u e^{s_u} of the samples.
        log_number: As for :func:`sample_logits`.
        weights: ``[…]``.
    """
    limits = torch.finfo(scores.dtype)
    # A logarithm of 0 takes thirty times as long as any other.
    each = weights.clamp(min=limits.tiny).log_()
    torch.threshold_(each, math.log(2 * limits.tiny), -math.inf)
    # Of a sample that is none, -inf less -inf.
    return each.sub_(scores).sub_(log_number).nan_to_num_(-math.inf, math.inf, -math.inf)
