"""Draws among the rows of other ids in torch operations, on any device.

Sorted by their ids, the rows that an anchor must not draw are neighbours. So place r of the others
is row r of that order before them, and r plus their number behind them.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from negplug.kernels.random.distinct import distinct_places
from negplug.kernels.random.numbers import RandomNumbers

LAST_ID = 1 << 62
"""Sorted in place of the ids of rows that serve nobody; above any other id."""


class SortedIds:
    """The rows of a pool by their ids; see :func:`negplug.kernels.random.others.others_of`."""

    def __init__(self, anchor_ids: Tensor, pool_ids: Tensor, serves: Tensor | None) -> None:
        self._anchor_ids = anchor_ids
        self._serves = serves
        if serves is not None:
            pool_ids = pool_ids.masked_fill(~serves, LAST_ID)
        self._ordered, self._order = torch.sort(pool_ids, stable=True)

    @functools.cached_property
    def _excluded(self) -> tuple[Tensor, Tensor]:
        """Where in the order each anchor's own id begins, and how often it is there, ``[N]``."""
        wanted = self._anchor_ids.contiguous()
        first = torch.searchsorted(self._ordered, wanted)
        return first, torch.searchsorted(self._ordered, wanted, right=True) - first

    @functools.cached_property
    def available(self) -> Tensor:
        """The number of rows that each anchor can draw, ``[N]`` int64."""
        number = len(self._order) if self._serves is None else self._serves.sum()
        return number - self._excluded[1]

    def draw(self, count: int, random: RandomNumbers) -> tuple[Tensor, Tensor | None]:
        """Return distinct rows for each anchor, and a mask where an anchor has fewer."""
        slots, mask = distinct_places(self.available, count, random)
        first, number = self._excluded
        slots = slots + (slots >= first[:, None]) * number[:, None]
        # Where an anchor has fewer than are drawn, a slot that the mask leaves out.
        return self._order[slots.clamp_(max=len(self._order) - 1)], mask
