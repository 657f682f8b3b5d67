"""``MetadataTable``: numbers of every sample of a data set, looked up by data set index.

It is no state of the model: a checkpoint does not hold it, and no cast of the model touches it.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import DatasetAccess, ParentSamples
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import check


class Looked(NamedTuple):
    """What a table holds of some rows.

    Attributes:
        values: ``[R, …]``, anything where a row is unknown.
        known: ``[R]`` bool, False for a row without an index.
    """

    values: Tensor
    known: Tensor


class MetadataTable:
    """Looks up the samples of anchors and rows for one sampler.

    Args:
        name: The sampler's name, for messages.
        table: ``[n, …]``, one entry per data set index; or the name of a column of the data set.
        parent: Whether the table is of the data set that the training ``Subset`` was taken from.

    Attributes:
        table: ``[n, …]``, of the samples that indexes count.
    """

    def __init__(self, name: str, table: Tensor | str, parent: bool = False) -> None:
        self.name = name
        self.parent = parent
        self.column = table if isinstance(table, str) else None
        self._unread = self.column is not None  # until a step says of which data set
        self.table = self._given = torch.empty(0) if isinstance(table, str) else table
        self._parent: ParentSamples | None = None

    def __str__(self) -> str:
        """Return what tells this table from others, whatever name its file has."""
        if self.column is not None:
            return f"column {self.column!r}"
        numbers = self._given.cpu().contiguous()
        # As text what checkpoints hold already; of embeddings there are too many for that.
        text = not numbers.is_floating_point()
        content = str(numbers.tolist()).encode() if text else numbers.numpy().tobytes()
        checksum = zlib.crc32(content)
        return f"table of {len(self._given)}, checksum {checksum:08x}"

    def of(
        self, source: NegativeSampler, batch: ContrastiveBatch, rows: Rows
    ) -> tuple[Looked, Looked]:
        """Return what is known of the anchors, N rows, and of the rows of one pool, K rows.

        In an evaluation without indexes, whose samples may be of another data set, nothing is.

        Raises:
            ValueError: If data set indexes are unknown in training, or beyond the table, or if the
                table is of another number of samples than the data set.
        """
        anchors = batch.anchors
        unread = self._unread and not batch.training
        if unread or not check_indexed(self.name, source, batch, rows):
            return self._nothing(anchors), self._nothing(rows)
        assert anchors.indexes is not None
        assert rows.indexes is not None
        if batch.training:
            self._fit(batch.context.dataset)
        self.table = self.table.to(anchors.indexes.device)
        return self._looked_up(anchors.indexes), self._looked_up(rows.indexes)

    def at(self, indexes: Tensor, dataset: DatasetAccess) -> Tensor:
        """Return what the table holds of samples ``[n]`` of a data set, ``[n, …]``.

        Raises:
            TypeError, ValueError: If the table is not that data set's, or it has no such column.
        """
        self._fit(dataset)
        return self.table[indexes]

    def _nothing(self, rows: Rows) -> Looked:
        values = self.table.new_zeros(len(rows), *self.table.shape[1:], device=rows.ids.device)
        return Looked(values, torch.zeros_like(rows.ids, dtype=torch.bool))

    def _fit(self, dataset: DatasetAccess) -> None:
        """Make the table that of the data set at hand.

        Raises:
            ValueError: If it has another number of entries than there are samples, or if there is
                no such column.
        """
        if self.column is not None:
            self._read(self.column, dataset)
            return
        entries, parent = len(self._given), dataset.parent
        if not self.parent:
            if dataset.size not in (None, entries):
                subset = parent is not None and parent.size == entries
                raise ValueError(
                    f"{self.name}: the metadata has {entries} entries, but the data set has "
                    f"{dataset.size} samples; "
                    + (
                        "parent=True says that it is of the data set that the Subset was taken from"
                        if subset
                        else "give one entry for each, in their order"
                    )
                )
            return
        if parent is None:
            raise ValueError(
                f"{self.name}: parent=True, but the training data set is no torch Subset, or "
                f"unknown as in a plain loop; leave parent out, and give the indexes that the "
                f"table counts"
            )
        if parent.size not in (None, entries):
            raise ValueError(
                f"{self.name}: the metadata has {entries} entries, but the data set that the "
                f"Subset was taken from has {parent.size} samples; give one entry for each"
            )
        if parent is not self._parent:
            self.table, self._parent = self._given[parent.indexes], parent

    def _read(self, column: str, dataset: DatasetAccess) -> None:
        """Take the column of the data set at hand for the table."""
        if dataset.column is None:
            raise ValueError(
                f"{self.name}: by={column!r} is a column of the data set, which is unknown here; a "
                f"plain loop has to call provide(dataset=…) of what inject returned, or give the "
                f"numbers themselves as a tensor"
            )
        try:
            found = dataset.column(column)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.name}: by={column!r}: {error}") from error
        if found is not self._given:
            self.table, self._given, self._unread = found, found, False

    def _looked_up(self, indexes: Tensor) -> Looked:
        entries = len(self.table)
        check(
            f"{self.name}: metadata",
            (indexes >= entries).any(),
            lambda: ValueError(
                f"{self.name}: the metadata has {entries} entries, but there is a sample with data "
                f"set index {int(indexes.max())}; it is shorter than the data set"
            ),
        )
        return Looked(self.table[indexes.clamp(0, entries - 1)], indexes >= 0)


def check_indexed(name: str, source: NegativeSampler, batch: ContrastiveBatch, rows: Rows) -> bool:
    """Return whether the data set indexes of anchors and rows are known; in training they must be.

    Raises:
        ValueError: If they are not.
    """
    if batch.anchors.indexes is not None and rows.indexes is not None:
        return True
    if not batch.training:
        return False
    if batch.anchors.indexes is None:
        raise ValueError(
            f"{name}: a table of metadata needs the data set index of every sample, but "
            f"{batch.unindexed or 'the loss was called without indexes='}"
        )
    raise ValueError(
        f"{name}: a table of metadata needs the data set index of the negatives too, "
        f"but the rows of {source} have none"
    )
