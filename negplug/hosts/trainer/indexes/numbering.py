"""Whether the indexes that a host's batches bring name the samples that were fetched.

A data set may give every sample the same index, its place in the batch, or a new one each time;
what is kept by sample would then be of several, unnoticed. Beside the batches it is known which
positions of the data set were fetched for them. An index may be any integer, but it has to be that
of its sample alone, and the next time too.

Positions may well share an index: a data set repeats its samples, or gives the next one in place of
a broken image. And a position may get another index with another sample, of a data set that chooses
anew in each epoch. So samples are compared, and not positions.

Two samples of one index are different ones

- where their labels differ,
- where their images differ, in a data set that gives the same image each time,
- without labels, where there are no more indexes than a batch has rows, however many positions were
  fetched.

Two samples of different indexes are the same one where their images are the same, or where every
label is what it was at its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_KEPT = 1 << 16
"""So many positions are remembered, at most."""
_ENOUGH = 2
"""So many contradictions are needed; a single one may be a broken image."""
_SURE = 8
"""So many images or labels that were the same again are no chance."""
_REPEATS = 3
"""Without labels, so many positions of each index are no samples that the data set repeats."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a batch.

    Attributes:
        index: What the host calls its sample.
        label: What else it says of it; None if nothing.
        image: What stands for its image.
    """

    index: int
    label: int | None
    image: bytes


class Numbering:
    """Compares indexes with positions, batch by batch.

    Attributes:
        fault: What is wrong with the indexes, as a clause; empty as long as they may be right.
        doubt: What may be wrong with them, as a clause; empty if nothing is known of that.
    """

    def __init__(self) -> None:
        self.fault = self.doubt = ""
        self._at: dict[int, Row] = {}  # by position
        self._of: dict[int, tuple[frozenset[int], Row]] = {}  # by index, and where it may be
        self._fetched: set[int] = set()
        self._labels: set[int | None] = set()
        self._largest = self._shared = self._same = self._alike = 0
        self._varies = self._other = False

    def see(self, places: Sequence[int], rows: Sequence[Row], in_order: bool) -> None:
        """Compare a batch.

        Args:
            places: The positions that were fetched for it.
            rows: Of the batch.
            in_order: Whether row b is of position b; otherwise it is of one of them.
        """
        if self.fault:
            return
        self._largest = max(self._largest, len(rows))
        if in_order and len(places) == len(rows):
            self._see_again(places, rows)
            maybe = [frozenset([place]) for place in places]
        else:
            maybe = [frozenset(places)] * len(rows)
        for at, row in zip(maybe, rows, strict=True):
            self._see_shared(at, row)
        if len(self._fetched) < _KEPT:
            self._fetched.update(places)
            indexes, positions = len(self._of), len(self._fetched)
            unlabeled = len(self._labels) < 2
            if unlabeled and indexes <= self._largest and positions >= _REPEATS * indexes:
                self._find(f"{positions} positions have no more than {indexes} different indexes")

    def _see_again(self, places: Sequence[int], rows: Sequence[Row]) -> None:
        """Compare samples with what was at their positions before."""
        compared = same_images = 0
        changed = ""
        for place, row in zip(places, rows, strict=True):
            before = self._at.get(place)
            if before is None:
                if len(self._at) < _KEPT:
                    self._at[place] = row
                continue
            compared += 1
            same = bool(row.image) and before.image == row.image
            if before.index == row.index:
                self._same += same
                self._varies |= not same
                continue
            changed = f"position {place} had the index {before.index} and has {row.index}"
            same_images += same
            self._alike += before.label == row.label
            self._other |= before.label != row.label
        labelled = len(self._labels) > 1 and not self._other and self._alike >= _SURE
        same_samples = same_images >= _ENOUGH and 2 * same_images >= compared
        if changed and (same_samples or labelled):
            self._find(changed)
        elif len(self._labels) < 2 and not self._other:
            self.doubt = self.doubt or changed

    def _see_shared(self, places: frozenset[int], row: Row) -> None:
        """Compare a sample with the one that had its index before."""
        self._labels.add(row.label)
        if row.index not in self._of:
            if len(self._of) < _KEPT:
                self._of[row.index] = places, row
            return
        before, first = self._of[row.index]
        if both := before & places:
            self._of[row.index] = both, first
            return
        fixed = self._same >= _SURE and not self._varies
        if row.image != first.image and (row.label != first.label or fixed):
            self._shared += 1
            if self._shared >= _ENOUGH:
                where = f" (positions {min(before)} and {min(places)})" if len(places) == 1 else ""
                self._find(f"different samples{where} have the index {row.index}")

    def _find(self, fault: str) -> None:
        self.fault = self.fault or fault
