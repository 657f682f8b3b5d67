"""A whole pool, sorted by stratum, and the rows that each anchor finds in and outside of its own.

An anchor's own stratum is one block of places, ``first`` to ``first + size``. Some places hold rows
of the anchor's own id and do not serve. So the r-th row that serves is some places further on: by
the number of excluded places x_0 < x_1 < … that it passes, those with x_j − j ≤ r. The excluded
places of all ids lie side by side, by id, so that one binary search finds that number, and no shape
depends on how many there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.ids import BEYOND, UNKNOWN, runs_with_same_id


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
        ids = ids[places]
        runs = torch.searchsorted(ids, ids)
        # No place, and none moved by a block, reaches the next run.
        self._width = 2 * len(rows) + 1
        by_place = runs * self._width + places
        self._keys = by_place - torch.arange(len(ids), device=ids.device) + runs
        # Of an anchor's run: what lies before its block, inside of it, and behind.
        cuts = [start]
        for place in (first, first + size):
            cut = torch.searchsorted(by_place, start * self._width + place)
            cuts.append(cut.clamp(start, start + number))
        cuts.append(start + number)
        within = cuts[2] - cuts[1]
        self.available = size - within, total - size - (number - within)
        self._cuts = [cut[:, None] for cut in cuts]
        self._first, self._size = first[:, None], size[:, None]

    def slots(self, part: int, places: Tensor) -> Tensor:
        """Return the pool columns of places ``[N, m]`` in a part; any column beyond its end."""
        start, inside, behind, _ = self._cuts
        if part == 0:
            moved = self._first - (inside - start)
            place = places + self._first + self._passed(1, places + moved)
        else:
            moved = self._size - (behind - inside)
            place = places + self._passed(0, places) + self._passed(2, places + moved)
            place = torch.where(place < self._first, place, place + self._size)
        return self._order[place.clamp(max=len(self._order) - 1)]

    def _passed(self, span: int, places: Tensor) -> Tensor:
        """Return how many excluded places before, inside or behind the block are passed."""
        begin, end = self._cuts[span : span + 2]
        wanted = self._cuts[0] * self._width + places
        return torch.searchsorted(self._keys, wanted, right=True).clamp(begin, end) - begin
