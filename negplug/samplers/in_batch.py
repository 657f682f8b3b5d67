"""``in_batch()``: the batch as the host forms it.

Every key that is neither the anchor nor one of its positives is a negative (SimCLR, Chen et al.
2020, https://arxiv.org/abs/2002.05709, equation 1). Which keys there are is the host's choice,
kept by its adapter: gathered over ranks if the host gathers, momentum keys if it contrasts with
momentum keys, the host's queue if it contrasts with nothing else (ReSSL). Stand-alone it is this
rank's other samples, all views.
"""

from __future__ import annotations

from collections.abc import Iterable

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler


class InBatch(NegativeSampler):
    """All keys of the batch but the anchor's own."""

    expression = "in_batch()"

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Return the batch's keys as a pool, exclusion by id; or the host's queue, see above."""
        return batch.all_keys() if batch.host_queue is None else Negatives(batch.host_queue)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``in_batch``."""
    yield SamplerSpec(
        "in_batch", InBatch, "the batch as the host forms it", "Chen et al. 2020, arXiv:2002.05709"
    )
