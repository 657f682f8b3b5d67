"""Whether a data set that is the same object still has its samples where they were.

It may choose another fold, or shuffle its list of files, in place. What it keeps in memory changes
for other reasons too: images are cached as they are loaded, labels and features are made anew. So
in the middle of a run names (paths, text) are compared, and of numbers those alone that are found
again at another place, once in the whole table. Between two fits anything else counts as well,
for to start afresh does no harm.
"""

from __future__ import annotations

from typing import Any

from negplug.hosts.trainer.fingerprint import entry_of, places_in, tables_of

_SEARCHED = 1 << 17
"""So many entries of a table are searched, at most."""


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
    """Return whether every entry that is elsewhere now is found in the table, once."""
    wanted = dict.fromkeys(map(repr, changed), 0)
    for place in range(min(len(table), _SEARCHED)):
        found = repr(entry_of(table, place))
        if found in wanted:
            wanted[found] += 1
    return all(count == 1 for count in wanted.values())
