"""A whole pool, sorted by stratum, and the rows that each anchor finds in and outside of its own.

An anchor's own stratum is one block of places, ``first`` to ``first + size``. Some places hold rows
of the anchor's own id and do not serve. So the r-th row that serves is some places further on: by
the number of excluded places x_0 < x_1 < … that it passes, those with x_j − j ≤ r.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.ids import BEYOND, UNKNOWN, runs_with_same_id
from negplug.kernels.late import known
from negplug.kernels.random.distinct import places_to_columns_


class SortedPool:
    """A whole pool, sorted by stratum.

    Args:
        anchor_ids: ``[N]`` int64.
        pool_ids: ``[K]`` int64.
        own: ``[N]`` int64, the anchors' strata.
        rows: ``[K]`` int64, those of the pool.
        serves: ``[K]`` bool, whether a row serves anyone; None if all do.

    Attributes:
        available: ``[N]`` each: an anchor's negatives inside its own stratum, and outside.
    """

    def __init__(
        self,
        anchor_ids: Tensor,
        pool_ids: Tensor,
        own: Tensor,
        rows: Tensor,
        serves: Tensor | None = None,
    ) -> None:
        total: int | Tensor = len(rows)
        if serves is not None:
            # Last, behind all strata.
            total, rows = serves.sum(), rows.masked_fill(~serves, BEYOND)
            pool_ids = pool_ids.masked_fill(~serves, UNKNOWN)
        ordered, self._order = torch.sort(rows, stable=True)
        own = own.contiguous()
        first = torch.searchsorted(ordered, own)
        last = torch.searchsorted(ordered, own, right=True)
        size = (last - first).masked_fill(own == UNKNOWN, 0)
        ids = pool_ids[self._order]
        places, start, number = runs_with_same_id(anchor_ids, ids)
        self._first, self._size = first[:, None], size[:, None]
        start, count = start[:, None], number[:, None]
        most = known(number.max())
        self._excluded: _Listed | _Searched
        if most is None:
            self._excluded = _Searched(places, ids[places], start, count, self._first, self._size)
        else:
            self._excluded = _Listed(places, start, count, self._first, self._size, most)
        within = self._excluded.within
        self.available = size - within, total - size - (number - within)

    def slots(self, part: int, places: Tensor) -> Tensor:
        """Return the pool columns of places ``[N, m]`` in a part; any column beyond its end."""
        place = self._excluded.passed_(part, places)
        if part == 0:
            place = place + self._first
        else:
            place = torch.where(place < self._first, place, place + self._size)
        return self._order[place.clamp(max=len(self._order) - 1)]


class _Listed:
    """Excluded places, listed for each anchor: so many columns as the most excluded one has.

    Args:
        places: ``[K]`` int64, all places, those with an id side by side and ascending.
        start: ``[N, 1]``, where those with the anchor's id begin.
        count: ``[N, 1]``, how many they are.
        first: ``[N, 1]``, the first place of the anchor's block.
        size: ``[N, 1]``, its length.
        most: The greatest count.

    Attributes:
        within: ``[N]``, the number of excluded places in the anchor's block.
    """

    def __init__(
        self, places: Tensor, start: Tensor, count: Tensor, first: Tensor, size: Tensor, most: int
    ) -> None:
        slot = torch.arange(most, device=places.device)
        place = places[(start + slot).clamp_(max=len(places) - 1)]
        place = place.masked_fill_(slot >= count, BEYOND)
        after = place >= first + size
        inside = (place >= first) & ~after
        # Places inside are counted from the start of the block, others as if there were none.
        outside = place.where(~after, place - size).where(place != BEYOND, BEYOND)
        self._parts = [
            (place - first).masked_fill(~inside, BEYOND).sort(1).values,
            outside.masked_fill(inside, BEYOND).sort(1).values,
        ]
        self.within = inside.sum(1)

    def passed_(self, part: int, places: Tensor) -> Tensor:
        """Return places ``[N, m]`` among those that serve as places among all of a part."""
        return places_to_columns_(places, self._parts[part])


class _Searched:
    """Excluded places of all ids side by side, found by binary search; no shape depends on them.

    Args:
        places: As for :class:`_Listed`.
        ids: ``[K]`` int64, the id at each.
        start: As for :class:`_Listed`.
        count: As for :class:`_Listed`.
        first: As for :class:`_Listed`.
        size: As for :class:`_Listed`.

    Attributes:
        within: ``[N]``, the number of excluded places in the anchor's block.
    """

    def __init__(
        self, places: Tensor, ids: Tensor, start: Tensor, count: Tensor, first: Tensor, size: Tensor
    ) -> None:
        runs = torch.searchsorted(ids, ids)
        # No place, and none moved by a block, reaches the next run.
        width = 2 * len(places) + 1
        self._offset = start * width
        by_place = runs * width + places
        self._keys = by_place - torch.arange(len(ids), device=ids.device) + runs
        # Of an anchor's run: what lies before its block, inside of it, and behind.
        cuts = (torch.searchsorted(by_place, self._offset + cut) for cut in (first, first + size))
        inside, behind = (cut.clamp(start, start + count) for cut in cuts)
        self._cuts = start, inside, behind, start + count
        self._moved = first - (inside - start), size - (behind - inside)
        self.within = (behind - inside)[:, 0]

    def passed_(self, part: int, places: Tensor) -> Tensor:
        """Return places ``[N, m]`` among those that serve as places among all of a part."""
        if part == 0:
            return places + self._number(1, places + self._moved[0])
        return places + self._number(0, places) + self._number(2, places + self._moved[1])

    def _number(self, span: int, places: Tensor) -> Tensor:
        """Return how many excluded places before, inside or behind the block are passed."""
        begin, end = self._cuts[span : span + 2]
        found = torch.searchsorted(self._keys, places + self._offset, right=True)
        return found.clamp(begin, end) - begin
