"""A pool seen as samples: which of its rows are views of the same sample.

The views of a sample enter a batch together, so a chain over single views would be proposed the
sibling of its own state far too often and never reach the softmax (detailed balance fails). A
chain over samples does: sample c weighs W_ic = mean_u e^{s(a_i, z_cu)/τ} over its views u, and
inside a sample a view has its conditional probability, the softmax over the views.
"""

from __future__ import annotations

from dataclasses import replace
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
from negplug.kernels.samples import find, group, shuffle
from negplug.kernels.samples.sorting import first_rows


class PooledSamples(NamedTuple):
    """The samples of a pool.

    Attributes:
        indexes: ``[C]`` int64, data set index of each; :data:`BEYOND` at the end, where there are
            fewer.
        rows: ``[V, C]`` int64, the row of each view in the pool; -1 where there is none. Of a
            sample that is missing in a complete pool, any.
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
        empty = BEYOND if self.padded else None
        seed = random.new_seed()
        assert isinstance(seed, int), "a chain remembers, and so is part of no graph"
        indexes, rows = shuffle(self.indexes, self.rows, seed, empty)
        return self._replace(indexes=indexes, rows=rows)

    def find(self, indexes: Tensor) -> Tensor:
        """Return the column of each of these samples, ``[…]`` int64; -1 where it is not here."""
        return find(self.indexes, indexes)


def whole_pool(name: str, source: NegativeSampler, batch: ContrastiveBatch) -> Rows:
    """Return what ``source`` offers to the sampler ``name``: one pool, all of its rows.

    A memory that does not wait for a device offers rows that it may not have written yet, and says
    so by a mask that is the same for all anchors. They are of no sample then, :data:`BEYOND`.

    Raises:
        ValueError: If it offers anything else, or in training rows of unknown samples.
    """
    pools: tuple[Negatives, ...] = source(batch)
    pool = pools[0]
    written = pool.common_mask if pool.rows.num_views is not None else None
    whole = pool.one_whole_pool or written is not None
    if len(pools) > 1 or not whole or pool.log_weight is not None:
        raise ValueError(no_whole_pool(name, source))
    if batch.training and batch.anchors.indexes is not None and pool.rows.indexes is None:
        raise ValueError(
            f"{name}: it is unknown which samples the rows of {source} are; give it a source "
            f"whose rows come from this run's batches"
        )
    if written is not None and pool.rows.indexes is not None:
        return replace(pool.rows, indexes=pool.rows.indexes.where(written, BEYOND), name="")
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
    if pool.views is not None:
        view = pool.views
    else:
        view = torch.zeros_like(indexes) if pool.num_views == 1 else occurrences(indexes)
    if pool.num_views is None:
        samples, sample = torch.unique(indexes, return_inverse=True)
        number = int(view.max()) + 1 if len(view) else 1
        entry = sample.add_(view, alpha=len(samples))
        rows = first_rows(entry, number * len(samples)).view(number, len(samples))
        return PooledSamples(samples, rows)
    # Of a shape that is known before, so that a device need not be waited for.
    samples, rows = group(indexes, view, pool.num_views, BEYOND)
    some = samples.shape[0] > 0
    padded = some and known(samples[-1]) in (BEYOND, None)
    return PooledSamples(samples, rows, some, padded)
