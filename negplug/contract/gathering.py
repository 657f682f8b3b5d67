"""Keys of all ranks: embeddings and what is known of them, gathered in one exchange."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from negplug.contract.ids import or_unknown
from negplug.contract.rows import Rows
from negplug.kernels.distributed import gather_rows

GATHERED = "keys of all ranks"
"""The name of gathered keys in their loss call."""

STREAMED = "keys of all ranks, this one's part"
"""The name of keys that go around a ring, on the rank whose they are."""


@dataclass(frozen=True)
class Gathering:
    """How the keys of all ranks came together.

    Attributes:
        first: Number of the first key that is this rank's.
        count: Number of this rank's keys.
        token: Zero that ties the loss to the keys' gathering.
    """

    first: int
    count: int
    token: Tensor

    @property
    def own(self) -> slice:
        """Which keys are this rank's."""
        return slice(self.first, self.first + self.count)


def gather_keys(keys: Rows) -> tuple[Rows, Gathering]:
    """Return every rank's keys in rank order, with gradient, and how they came together.

    Every rank calls it. What this rank does not know of its keys is taken as unknown on all.

    Raises:
        ValueError: If the width or type of the embeddings differs between ranks; on every rank.
    """
    beside = (keys.ids, keys.indexes, keys.labels, keys.views)
    names = torch.stack([or_unknown(name, keys.ids) for name in beside])
    embeddings, names, first, token = gather_rows(keys.embeddings, names)
    ids, indexes, labels, views = (
        None if name is None else names[n] for n, name in enumerate(beside)
    )
    assert ids is not None
    rows = Rows(embeddings, ids, indexes, labels, views, keys.num_views, GATHERED)
    return rows, Gathering(first, len(keys), token)
