"""``gather()``: the global batch, keys of every rank in rank order.

Each rank computes the loss of its own anchors against all keys (the local loss of OpenCLIP, whose
memory does not grow with the square of the global batch), and the gradient of a key flows back to
the rank that made it, so that after DDP's averaging it is that of one process on the concatenated
batch. Ranks may have batches of different sizes: the loss is weighted so that the average over
ranks is the mean over all anchors. With one process, or a host that gathers by itself, it is
``in_batch()``.
"""

from __future__ import annotations

from collections.abc import Iterable

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler


class Gather(NegativeSampler):
    """All keys of all ranks but the anchor's own."""

    expression = "gather()"

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Return every rank's keys as a pool, exclusion by id."""
        return batch.gathered().all_keys()


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``gather``."""
    yield SamplerSpec(
        "gather", Gather, "the global batch, keys of every rank", "Chen et al. 2020, SimCLR"
    )
