"""The mean of a loss over the anchors of all ranks."""

from __future__ import annotations

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.kernels.distributed import total, world_size


def mean_over_anchors(batch: ContrastiveBatch, losses: Tensor) -> Tensor:
    """Return the mean of ``losses`` ``[N]`` over the anchors that have a positive.

    Over several ranks their number is the mean per rank, which makes DDP's average over ranks the
    mean over all anchors, also when one rank has a smaller batch.
    """
    number = (batch.positives >= 0).any(1).sum()
    if batch.tie is None:
        return losses.sum() / number.clamp(min=1)
    number = total(number).clamp(min=1).to(batch.anchors.embeddings.dtype) / world_size()
    # Every rank takes part in the backward pass of the gathering, whatever it used.
    return losses.sum() / number + batch.tie
