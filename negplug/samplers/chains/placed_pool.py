"""A complete pool as it is, and where in it the views of each sample are.

Nothing of the pool is copied, so there is little to launch on a GPU. On the CPU, where a gather of
logits costs more than one of rows, large pools are put in order (:mod:`.ordered_pool`).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import BEYOND
from negplug.contract.rows import Rows
from negplug.kernels.late import free_to_read
from negplug.kernels.views import few, sample_scores, spread_
from negplug.samplers.chains.grouping import PooledSamples
from negplug.samplers.chains.ordered_pool import OrderedPool, ids_are_indexes, logits_of


class PlacedPool(NamedTuple):
    """A whole pool whose samples all have the same views.

    Attributes:
        pool: The pool, R rows.
        samples: Its samples.
    """

    pool: Rows
    samples: PooledSamples

    def row_logits(self, batch: ContrastiveBatch) -> Tensor:
        """Return the logits ⟨a_i, k_j⟩/τ of all rows, ``[R, N]``."""
        return logits_of(self.pool, batch)

    def scores(self, batch: ContrastiveBatch, own: Tensor, logits: Tensor) -> Tensor:
        """Return the logits of samples, ``[C, N]``; see :meth:`.OrderedPool.scores`."""
        named = ids_are_indexes(batch, self.pool)
        ids = None if named else (batch.anchors.ids, self.pool.ids)
        missing = (self.samples.indexes, BEYOND) if self.samples.padded else None
        return sample_scores(logits, self.samples.rows, own, missing, ids)

    def spread(self, logits: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
        """Return the log weights of rows, ``[R, N]``; see :meth:`.OrderedPool.spread`."""
        return spread_(logits, self.samples.rows, scores, weights)


def pool_of(pool: Rows, samples: PooledSamples, anchors: int) -> PlacedPool | OrderedPool:
    """Return a pool, of so many anchors, in the form that takes the least time on its device."""
    small = few(samples.indexes.shape[0], anchors)
    if samples.complete and (small or not free_to_read(pool.ids.device)):
        return PlacedPool(pool, samples)
    return OrderedPool.of(pool, samples)
