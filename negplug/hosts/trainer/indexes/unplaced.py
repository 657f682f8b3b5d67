"""Whether a host's own indexes name its samples, where nobody knows what was fetched.

An ``IterableDataset`` and a loader of another kind than torch's say nothing of positions, so that
:mod:`.numbering` has nothing to compare indexes with. What is left are the batches: an index that
has one label here and another one there is of two samples, and so is one that all rows of a batch
have, unless their images are one.

In an epoch a sample comes once, or a few times with the label that it has. From one epoch to the
next a recipe may draw labels anew, and a stream of few samples may repeat them; of that a warning
is all that can be said.
"""

from __future__ import annotations

from collections.abc import Sequence

from negplug.hosts.trainer.indexes.numbering import Row

_KEPT = 1 << 16
"""So many indexes are remembered, at most."""
_ENOUGH = 2
"""So many contradictions are needed."""
_FEWEST = 4
"""Fewer rows of one index may be a sample that is repeated."""
_REPEATS = 3
"""So many rows of each index, in an epoch of few, are no samples that it repeats."""


class Unplaced:
    """Compares the indexes of batches with one another.

    Attributes:
        fault: What is wrong with them, as a clause; empty as long as they may be right.
        doubt: What may be wrong with them, as a clause; empty if nothing is known of that.
    """

    def __init__(self) -> None:
        self.fault = self.doubt = ""
        self._of: dict[int, tuple[int | None, int]] = {}  # label and epoch, by index
        self._epoch, self._rows, self._largest = -1, 0, 0
        self._indexes: set[int] = set()  # of the epoch
        self._within = self._between = 0

    def see(self, rows: Sequence[Row], epoch: int) -> None:
        """Compare a batch.

        Args:
            rows: Of the batch.
            epoch: In which it is trained on.
        """
        if self.fault:
            return
        if epoch != self._epoch:
            self._epoch, self._rows, self._indexes = epoch, 0, set()
        named = {row.index for row in rows}
        if len(named) == 1 and len(rows) >= _FEWEST and len({row.image for row in rows}) > 1:
            self.fault = f"all {len(rows)} samples of a batch have the index {rows[0].index}"
            return
        for row in rows:
            self._see_label(row)
        self._largest = max(self._largest, len(rows))
        self._rows += len(rows)
        self._indexes |= named
        few = len(self._indexes) <= self._largest
        if few and self._rows >= _REPEATS * len(self._indexes) and len(self._indexes) > 1:
            self._doubt(f"{self._rows} samples have no more than {len(self._indexes)} indexes")

    def _see_label(self, row: Row) -> None:
        label, epoch = self._of.get(row.index, (row.label, self._epoch))
        if label != row.label:
            what = f"different samples have the index {row.index}"
            self._within += epoch == self._epoch
            self._between += epoch != self._epoch
            if self._within >= _ENOUGH:
                self.fault = self.fault or what
            elif self._between >= _ENOUGH:
                self._doubt(what)
        if row.index in self._of or len(self._of) < _KEPT:
            self._of[row.index] = row.label, self._epoch

    def _doubt(self, doubt: str) -> None:
        self.doubt = self.doubt or doubt
