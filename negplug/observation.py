"""What is measured of a loss call, for logging.

Every value is without gradient, and is only computed in the calls that will be logged:

- ``num_negatives``: mean number of negatives per anchor;
- ``infonce``: the softmax contrastive loss over all keys of the batch, whatever the sampler and
  the objective: comparable between runs, where the training loss is not;
- and what each sampler says of its own draws, see :meth:`NegativeSampler.metrics`.
"""

from __future__ import annotations

import torch

from negplug.batch import ContrastiveBatch
from negplug.negatives import Negatives
from negplug.objectives.infonce import InfoNCE
from negplug.sampler import NegativeSampler


@torch.no_grad()
def observe(
    batch: ContrastiveBatch, sampler: NegativeSampler, negatives: Negatives
) -> dict[str, float]:
    """Return the measurements of one call.

    Args:
        batch: The call's batch, with what its samplers gave in its memo.
        sampler: The sampler that was asked.
        negatives: What it gave.
    """
    detached = batch.detach()
    paying = (batch.positives >= 0).any(1).sum().clamp(min=1)
    comparable = InfoNCE()(detached, detached.all_keys(), batch.temperature).sum() / paying
    measured = {
        "num_negatives": float(negatives.counts(batch.anchor_ids).float().mean()),
        "infonce": float(comparable),
    }
    for part in sampler.all_samplers():
        if part in batch.memo:
            measured |= part.metrics(batch, batch.memo[part])
    return measured
