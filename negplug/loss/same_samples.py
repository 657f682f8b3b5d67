"""Ranks that train on the same samples, which each of them was to have a part of.

A loader without a ``DistributedSampler`` and one seed for all ranks give each the same batches.
Then every sample of the global batch is there several times, as a negative of itself where ranks
gather, and the run costs as much as it learns from one rank. A recipe that gathers the embeddings
itself, ahead of its loss, hands over the same on all ranks too; that is right if nobody gathers
again.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from negplug.contract.rows import Rows
from negplug.kernels.digest import digest


def digest_of_samples(rows: Rows, local: bool) -> str:
    """Return what two ranks have in common if they have the same samples; "" if that is unknown.

    Reads the device: the indexes, where all are known, or the embeddings to the last bit.

    Args:
        rows: The anchors of a call.
        local: Whether each rank may count a data set of its own.
    """
    told = rows.embeddings.detach()
    if rows.indexes is not None and not local and bool((rows.indexes >= 0).all()):
        told = rows.indexes.sort().values
    elif len(rows) < 2 or bool((told == told[0]).all()):
        return ""  # a model that maps all samples to one row says nothing of them
    return digest(told)


def warn_of_same(digests: Sequence[str], rank: int) -> None:
    """Warn, on the first of them, of ranks that have the same samples.

    Args:
        digests: Of each rank.
        rank: This one.
    """
    same = [other for other, found in enumerate(digests) if found and found == digests[rank]]
    if len(same) > 1 and same[0] == rank:
        warnings.warn(
            f"ranks {', '.join(map(str, same))} train on the same samples, so that each is in the "
            f"global batch several times; give the DataLoader a DistributedSampler, or its "
            f"shuffling another seed on each rank; or, if the recipe has gathered the embeddings "
            f"itself, let the sampler not gather them again (gather=False, and no gather())",
            stacklevel=2,
        )
