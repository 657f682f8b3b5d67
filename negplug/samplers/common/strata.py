"""Strata: a class of each sample, from its label or from a table over the data set.

-1 is an unknown stratum: such an anchor has no stratum of its own, and such a row is of another
stratum than every anchor.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import DatasetAccess, ParentSamples
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_flag
from negplug.contract.labels import whole_numbers
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import check
from negplug.samplers.common.choosing import labels_of

LABELS = "labels"


class Strata:
    """Looks up the strata of anchors and rows for one sampler.

    Args:
        name: The sampler's name, for messages.
        by: ``"labels"``; the path of a ``.npy`` file, or a tensor, of integers ``[n]``, one per
            data set index.
        parent: Whether the table is of the data set that the training ``Subset`` was taken from.

    Attributes:
        table: ``[n]`` int64, of the samples that indexes count; None if strata are labels.

    Raises:
        TypeError, ValueError: If ``by`` is neither, or the table cannot be used.
        ModuleNotFoundError: If the file needs NumPy and there is none.
    """

    def __init__(self, name: str, by: str | Tensor, parent: bool = False) -> None:
        self.name = name
        self.parent = check_flag(name, "parent", parent)
        if isinstance(by, Tensor):
            self.table: Tensor | None = _check_table(f"{name}: by", by)
        elif not isinstance(by, str):
            raise TypeError(
                f'{name}: by must be "labels", the path of a .npy file or a tensor of integers, '
                f"got {type(by).__name__}"
            )
        elif by == LABELS:
            self.table = None
        elif by.endswith(".npy"):
            self.table = _check_table(f"{name}: by={by!r}", _load(name, by))
        else:
            raise ValueError(
                f'{name}: by must be "labels" or the path of a .npy file, got {by!r}; other '
                f"metadata can be saved with numpy.save"
            )
        if self.parent and self.table is None:
            raise ValueError(f'{name}: parent=True is said of a table, but by="labels"')
        self._given = self.table
        self._parent: ParentSamples | None = None

    def __str__(self) -> str:
        """Return what tells these strata from others, whatever name their file has."""
        if self._given is None:
            return LABELS
        checksum = zlib.crc32(str(self._given.tolist()).encode())
        return f"table of {len(self._given)}, checksum {checksum:08x}"

    def of(
        self, source: NegativeSampler, batch: ContrastiveBatch, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        """Return the strata of the anchors, ``[N]``, and of the rows of one pool, ``[K]``.

        In an evaluation, whose samples may be of another data set, a table's are unknown.

        Raises:
            ValueError: If labels or data set indexes are unknown in training, or beyond the table,
                or if the table is of another number of samples than the data set.
        """
        if self.table is None:
            return labels_of(self.name, source, batch, rows)
        anchors = batch.anchors
        if not batch.training and (anchors.indexes is None or rows.indexes is None):
            return torch.full_like(anchors.ids, UNKNOWN), torch.full_like(rows.ids, UNKNOWN)
        if anchors.indexes is None:
            raise ValueError(
                f"{self.name}: a table of metadata needs the data set index of every sample, but "
                f"{batch.unindexed or 'the loss was called without indexes='}"
            )
        if rows.indexes is None:
            raise ValueError(
                f"{self.name}: a table of metadata needs the data set index of the negatives too, "
                f"but the rows of {source} have none"
            )
        if batch.training:
            self._fit(batch.context.dataset)
        # Not a buffer: it is no state of the model, and no cast of the model may touch it.
        self.table = self.table.to(anchors.indexes.device)
        return self._looked_up(anchors.indexes), self._looked_up(rows.indexes)

    def _fit(self, dataset: DatasetAccess) -> None:
        """Make the table that of the data set at hand.

        Raises:
            ValueError: If it has another number of entries than there are samples.
        """
        assert self._given is not None
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

    def _looked_up(self, indexes: Tensor) -> Tensor:
        assert self.table is not None
        entries = len(self.table)
        check(
            f"{self.name}: metadata",
            (indexes >= entries).any(),
            lambda: ValueError(
                f"{self.name}: the metadata has {entries} entries, but there is a sample with data "
                f"set index {int(indexes.max())}; it is shorter than the data set"
            ),
        )
        strata = self.table[indexes.clamp(0, entries - 1)]
        return strata.where(indexes >= 0, UNKNOWN)


def _load(name: str, path: str) -> Tensor:
    try:
        import numpy as np
    except ImportError:
        raise ModuleNotFoundError(
            f"{name}: by={path!r} is read with NumPy, which is not installed; pip install numpy, "
            f"or give a tensor"
        ) from None
    if not Path(path).is_file():
        raise ValueError(f"{name}: by={path!r} names no file; the path is relative to {Path.cwd()}")
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header may say anything
        raise ValueError(
            f"{name}: by={path!r} holds no array of numbers that numpy.load can read: {error}"
        ) from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: by={path!r} is an archive of arrays; save one with numpy.save")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: by={path!r} must hold integers, got {array.dtype}")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: by={path!r} must be below 2**63, got {array.max()}")
    return torch.from_numpy(array.astype(np.int64))


def _check_table(what: str, table: Tensor) -> Tensor:
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise TypeError(f"{what} must hold integers, got {table.dtype}")
    if table.ndim != 1 or not len(table):
        raise ValueError(f"{what} must be one-dimensional and not empty, got {tuple(table.shape)}")
    table = whole_numbers(what, table.detach()).clone()
    if int(table.min()) < UNKNOWN:
        raise ValueError(
            f"{what} must hold strata from 0 upwards, or -1 where unknown, got {int(table.min())}"
        )
    return table
