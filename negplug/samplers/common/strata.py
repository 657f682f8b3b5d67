"""Strata: a class of each sample, from its label or from a table over the data set.

-1 is an unknown stratum: such an anchor has no stratum of its own, and such a row is of another
stratum than every anchor.
"""

from __future__ import annotations

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_flag
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler
from negplug.samplers.common.choosing import labels_of
from negplug.samplers.common.metadata_given import check_classes, check_column, read_table
from negplug.samplers.common.metadata_table import MetadataTable

LABELS = "labels"


class Strata:
    """Looks up the strata of anchors and rows for one sampler.

    Args:
        name: The sampler's name, for messages.
        by: ``"labels"``; the path of a ``.npy`` file, or a tensor, of integers ``[n]``, one per
            data set index; or the name of a column of the data set.
        parent: Whether the table is of the data set that the training ``Subset`` was taken from.

    Attributes:
        metadata: The table; None if strata are labels.

    Raises:
        TypeError, ValueError: If ``by`` is neither, or the table cannot be used.
        ModuleNotFoundError: If the file needs NumPy and there is none.
    """

    def __init__(self, name: str, by: str | Tensor, parent: bool) -> None:
        self.name = name
        self.metadata: MetadataTable | None = None
        parent = check_flag(name, "parent", parent)
        if isinstance(by, Tensor) or (isinstance(by, str) and by.endswith(".npy")):
            self.metadata = MetadataTable(name, check_classes(*read_table(name, "by", by)), parent)
        elif parent:
            raise ValueError(f"{name}: parent=True is said of a file or a tensor, got by={by!r}")
        elif by != LABELS:
            what = '"labels", the path of a .npy file, a tensor of integers'
            self.metadata = MetadataTable(name, check_column(name, by, what))

    def __str__(self) -> str:
        """Return what tells these strata from others, whatever name their file has."""
        return LABELS if self.metadata is None else str(self.metadata)

    def of(
        self, source: NegativeSampler, batch: ContrastiveBatch, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        """Return the strata of the anchors, ``[N]``, and of the rows of one pool, ``[K]``.

        In an evaluation, whose samples may be of another data set, a table's are unknown.

        Raises:
            ValueError: If labels or data set indexes are unknown in training, or beyond the table,
                or if the table is of another number of samples than the data set.
        """
        if self.metadata is None:
            return labels_of(self.name, source, batch, rows)
        own, theirs = self.metadata.of(source, batch, rows)
        return own.values.where(own.known, UNKNOWN), theirs.values.where(theirs.known, UNKNOWN)
