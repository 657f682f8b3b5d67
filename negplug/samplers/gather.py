"""``gather()``: the global batch, keys of every rank in rank order.

Each rank computes the loss of its own anchors against all keys (the local loss of OpenCLIP, whose
memory does not grow with the square of the global batch), and the gradient of a key flows back to
the rank that made it, so that after DDP's averaging it is that of one process on the concatenated
batch. Ranks may have batches of different sizes: the loss is weighted so that the average over
ranks is the mean over all anchors. With one process, or a host that gathers by itself, it is
``in_batch()``.

``gather(ring=True)`` has the same loss and the same gradient, and no rank ever holds all keys: they
go around a ring of ranks in blocks, each rank's keys being one, and the log-sum-exp is merged block
by block (Inf-CL, Cheng et al. 2024, arXiv:2410.17243; :mod:`negplug.kernels.ring`). The memory of
a rank does then not grow with their number. As nobody sees single rows, no other sampler can choose
among them, and the objective must be one that needs their log-sum-exp alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.contract.streaming import every_ranks_keys


class Gather(NegativeSampler):
    """All keys of all ranks but the anchor's own.

    Args:
        ring: Whether keys go around a ring of ranks, so that no rank holds all of them.

    Raises:
        TypeError: If ``ring`` is no truth value.
    """

    expression = "gather()"

    def __init__(self, ring: bool = False) -> None:
        super().__init__()
        if not isinstance(ring, bool):
            raise TypeError(f"gather: ring must be True or False, got {ring!r}")
        self.streams = ring
        self._told = False
        if ring:
            self.expression = "gather(ring=True)"

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Return every rank's keys as a pool, exclusion by id."""
        if not self.streams:
            return batch.gathered().all_keys()
        if batch.gathering is not None and not self._told:
            self._told = True
            warnings.warn(
                f"{self}: the host's loss has gathered all keys by itself, so nothing goes around "
                f"the ring; turn its gathering off (gather_distributed=False in Lightly)",
                stacklevel=2,
            )
        return every_ranks_keys(batch)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``gather``."""
    yield SamplerSpec(
        "gather", Gather, "the global batch, keys of every rank", "Chen et al. 2020, SimCLR"
    )
