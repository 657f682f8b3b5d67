"""Whether a data set that is the same object still has its samples where they were.

It may choose another fold, or shuffle its list of files, in place. What it keeps in memory changes
for other reasons too: images are cached as they are loaded, labels and features are made anew. So
in the middle of a run an entry that has changed counts in two cases: it is a name (a path, a text),
or it is a number that has moved. A number has moved if it is found once in the whole table, at
another place; all changed entries have to be, or a few rows of many values. Between two fits any
change counts, for to start afresh does no harm.
"""

from __future__ import annotations

from typing import Any

from negplug.hosts.trainer.dataset.fingerprint import entry_of, places_in, tables_of

_SEARCHED = 1 << 17
"""So many entries of a table are searched, at most."""
_ENOUGH = 2
"""So many rows that have moved are no chance."""
_MANY = 8
"""So many different values of a row."""


class KeptTables:
    """Some entries of the tables of a data set, by their places.

    Args:
        dataset: Whose tables they are.
    """

    def __init__(self, dataset: Any) -> None:
        self._entries = {
            name: {place: entry_of(table, place) for place in places_in(table)}
            for name, table in tables_of(dataset)
        }

    def differ(self, dataset: Any, *, between_fits: bool) -> bool:
        """Return whether the samples of the data set are others now, or at other places.

        Args:
            dataset: The same object.
            between_fits: Whether no run is going on.
        """
        for name, table in tables_of(dataset):
            before = self._entries.get(name, {})
            changed = [
                entry
                for place, entry in before.items()
                if entry is not None and (place >= len(table) or entry_of(table, place) != entry)
            ]
            if changed and (between_fits or any(map(_names, changed)) or _moved(changed, table)):
                return True
        return False


def _names(entry: Any) -> bool:
    if isinstance(entry, list):
        return any(map(_names, entry))
    return isinstance(entry, (str, bytes))


def _moved(changed: list[Any], table: Any) -> bool:
    """Return whether entries that are elsewhere now are found in the table, once.

    All of them are, or some rows of many values, as in a window that has moved on.
    """
    wanted = dict.fromkeys(map(repr, changed), 0)
    for place in range(min(len(table), _SEARCHED)):
        found = repr(entry_of(table, place))
        if found in wanted:
            wanted[found] += 1
    rows = {repr(entry) for entry in changed if wanted[repr(entry)] == 1 and _is_row(entry)}
    return len(rows) >= _ENOUGH or all(count == 1 for count in wanted.values())


def _is_row(entry: Any) -> bool:
    """Return whether an entry holds so many values that no other one has them by chance."""
    return isinstance(entry, list) and len({*map(repr, entry)}) >= _MANY
