"""What is measured of a loss call, for logging.

Every value is without gradient, and is only computed in the calls that will be logged:

- ``num_negatives``: mean number of negatives per anchor;
- ``effective_negatives``: mean of their effective number in the softmax, 1/Σ p², for negatives
  that estimate the denominator (draws from the softmax have ``effective_draws``);
- ``hardness``: mean similarity of the negatives;
- ``infonce``: the softmax contrastive loss over all keys of the batch, whatever the sampler and
  the objective: comparable between runs, where the training loss is not;
- ``alignment``: mean ‖a − k‖² of the positive pairs;
- ``uniformity``: log of the mean e^{−2‖a − b‖²} of anchors that are not positives of each other;
- and what each sampler says of its own draws, see :meth:`NegativeSampler.metrics`.

What does not exist, the hardness of no negatives say, is left out; so is what needs keys that other
ranks hold (``gather(ring=True)``): the first three.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.negatives import Negatives, total_counts
from negplug.contract.sampler import NegativeSampler
from negplug.contract.streaming import streamed
from negplug.diagnostics.hypersphere import uniformity
from negplug.diagnostics.negatives import effective_number, hardness
from negplug.objectives.infonce import InfoNCE
from negplug.objectives.logits import positive_logits


@torch.no_grad()
def observe(
    batch: ContrastiveBatch, sampler: NegativeSampler, negatives: Sequence[Negatives]
) -> dict[str, float]:
    """Return the measurements of one call.

    Args:
        batch: The call's batch, with what its samplers gave in its memo.
        sampler: The sampler that was asked.
        negatives: What it gave.
    """
    # Similarities in half precision carry three digits.
    with torch.autocast(batch.anchors.embeddings.device.type, enabled=False):
        measured = {name: float(value) for name, value in _measure(batch, negatives).items()}
    return measured | sampler.measured(batch)


def _measure(batch: ContrastiveBatch, negatives: Sequence[Negatives]) -> dict[str, Tensor]:
    detached, given = batch.detach(), [part.detach() for part in negatives]
    paired = batch.positives >= 0
    paying = paired.any(1).sum().clamp(min=1)
    comparable = InfoNCE()(detached, [detached.all_keys()], batch.temperature).sum() / paying
    measured = {"infonce": comparable}
    if not streamed(given):
        measured |= _of_negatives(detached, given)
    if paired.any():
        # ‖a − k‖² = 2 − 2⟨a, k⟩ for rows of unit length
        measured["alignment"] = 2 - 2 * positive_logits(detached, 1.0)[paired].mean()
    ids = batch.anchors.ids
    if len(ids) > 1 and ((ids != ids[0]) | (ids == UNKNOWN)).any():
        measured["uniformity"] = uniformity(detached.anchors.embeddings, ids=ids)
    return measured


def _of_negatives(batch: ContrastiveBatch, given: Sequence[Negatives]) -> dict[str, Tensor]:
    number = total_counts(given, batch.anchors)
    measured = {"num_negatives": number.float().mean()}
    if given[0].estimator == "partition":
        measured["effective_negatives"] = effective_number(batch, given, batch.temperature).mean()
    if number.any():
        measured["hardness"] = hardness(batch, given)[number > 0].mean()
    return measured
