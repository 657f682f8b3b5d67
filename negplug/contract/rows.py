"""``Rows``: embeddings and who they are.

Anchors, keys of the batch, gathered keys, a queue and a memory bank are all rows. Identity is
carried by ids (see :mod:`negplug.contract.ids`): a row with the anchor's id is the anchor itself,
another view of it, or another positive, and so never its negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from negplug.contract.ids import UNKNOWN, comparable_ids, or_unknown
from negplug.kernels.late import free_to_read

# Names of rows in a loss call. The anchors of a symmetric loss are its keys.
ANCHORS = "anchors"
KEYS = "keys"


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings of unit length and what is known of them.

    Attributes:
        embeddings: ``[K, d]`` float32 or float64, rows of unit length; may carry gradient.
        ids: ``[K]`` int64; -1 is unknown and equals nothing.
        indexes: ``[K]`` int64, data set index of each row, -1 = unknown; None if all are.
        labels: ``[K]`` int64, label of each row, -1 = unknown; None if all are.
        views: ``[K]`` int64, the view that each row comes from; None if unknown.
        num_views: V, where every sample is here with the views 0 … V − 1, each as often as the
            others, so that there are K/V samples at most; None if that is unknown. Where it is 1,
            all views are 0 if they are None.
        name: What these rows are called in their loss call. Two ``Rows`` of one name hold the same
            rows with the same gradient, which decides speed and deduplication; rows without a name
            are the same as no others. To change a field is to drop the name:
            ``replace(rows, ids=ids, name="")``.
        identified: ``ids`` again, where it is known that none of them is unknown.
    """

    embeddings: Tensor
    ids: Tensor
    indexes: Tensor | None = None
    labels: Tensor | None = None
    views: Tensor | None = None
    num_views: int | None = None
    name: str = ""
    identified: Tensor | None = None

    def __len__(self) -> int:
        return self.embeddings.shape[0]  # a third of the time of len()

    @property
    def comparable_ids(self) -> Tensor:
        """Ids ``[K]`` of anchors such that ``==`` with the ids of a pool is the exclusion rule."""
        # By identity: whoever replaces the ids need not know of the other field.
        return self.ids if self.ids is self.identified else comparable_ids(self.ids)

    @property
    def ids_are_indexes(self) -> bool:
        """Whether the ids are the data set indexes, as far as is known without waiting."""
        if self.indexes is None or self.ids is self.indexes:
            return self.indexes is not None
        return free_to_read(self.ids.device) and torch.equal(self.ids, self.indexes)

    def same_as(self, other: Rows) -> bool:
        """Return whether the other rows are these, by their name."""
        return self.name != "" and self.name == other.name

    def select(self, rows: Tensor) -> Rows:
        """Return some of the rows, with all that is known of them and without a name.

        Args:
            rows: ``[R]`` int64 places.
        """
        indexes = _selected(self.indexes, rows)
        ids = indexes if self.ids is self.indexes else None
        return Rows(
            self.embeddings.index_select(0, rows),
            self.ids.index_select(0, rows) if ids is None else ids,
            indexes,
            _selected(self.labels, rows),
            _selected(self.views, rows),
        )

    def with_embeddings(self, embeddings: Tensor) -> Rows:
        """Return other embeddings ``[K, d]`` of the same samples, without a name."""
        return replace(self, embeddings=embeddings, name="")

    def detach(self) -> Rows:
        """Return the rows without gradient; their name says so."""
        name = f"{self.name.removesuffix(_DETACHED)}{_DETACHED}" if self.name else ""
        return replace(self, embeddings=self.embeddings.detach(), name=name)

    @classmethod
    def unknown(cls, embeddings: Tensor) -> Rows:
        """Return rows ``[K, d]`` of which nothing is known."""
        ids = torch.full((len(embeddings),), UNKNOWN, device=embeddings.device)
        return cls(embeddings, ids)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Return the rows of all parts, one after another; -1 where a part does not know."""
        num_views = {part.num_views for part in parts}
        return cls(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.ids for part in parts]),
            _joined([part.indexes for part in parts], parts),
            _joined([part.labels for part in parts], parts),
            _joined([part.views for part in parts], parts),
            num_views.pop() if len(num_views) == 1 else None,
        )


_DETACHED = " (detached)"


def _selected(values: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if values is None else values.index_select(0, rows)


def _joined(values: Sequence[Tensor | None], parts: Sequence[Rows]) -> Tensor | None:
    if all(value is None for value in values):
        return None
    each = zip(values, parts, strict=True)
    return torch.cat([or_unknown(value, part.ids) for value, part in each])
