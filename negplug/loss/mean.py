"""The mean of a loss over the anchors of all ranks."""

from __future__ import annotations

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.kernels.distributed import total, world_size
from negplug.loss.agreement import Agreement


def mean_over_anchors(batch: ContrastiveBatch, losses: Tensor, ranks: Agreement) -> Tensor:
    """Return the mean of ``losses`` ``[N]`` over the anchors that have a positive.

    Over several ranks their number is the mean per rank, which makes DDP's average over ranks the
    mean over all anchors, also when one rank has a smaller batch.

    Args:
        batch: The batch.
        losses: Of its anchors.
        ranks: What they have agreed on; this is the last exchange of a call.
    """
    if batch.tie is None and not batch.padded:
        ranks.end(batch)
        return losses.mean()
    number = (batch.positives >= 0).any(1).sum()
    if batch.tie is None:
        ranks.end(batch)
        return losses.sum() / number.clamp(min=1)
    everyones = total(number, ranks.announces(number.device)).clamp(min=1)
    ranks.end(batch)
    number = everyones.to(batch.anchors.embeddings.dtype) / world_size()
    # Every rank takes part in the backward pass of the gathering, whatever it used.
    return losses.sum() / number + batch.tie
