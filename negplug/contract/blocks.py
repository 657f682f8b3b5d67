"""Blocks of views: which views' rows serve an anchor, without a ``[N, K]`` mask.

Anchors and rows of a pool come from V views. Of the V·V blocks of their logits those of a view with
itself are *same*, the others *cross*. Either half is V products of a view's anchors with the rows
that serve them, streamed like a whole pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Half = Literal["cross", "same"]
HALVES: tuple[str, ...] = get_args(Half)


@dataclass(frozen=True, eq=False)
class Blocks:
    """One half of the blocks.

    Attributes:
        half: Whether rows of the other views serve an anchor, or those of its own.
        anchor_views: ``[N]`` int64, the view of each anchor, from 0 to V − 1.
        row_views: ``[K]`` int64, that of each row of the pool.
        num_views: V; each view has N/V anchors and K/V rows.
        ordered: Whether anchors and rows are known to lie view after view.
    """

    half: Half
    anchor_views: Tensor
    row_views: Tensor
    num_views: int
    ordered: bool = False

    def mask(self) -> Tensor:
        """Return ``[N, K]`` bool, True where a row serves an anchor."""
        same = self.anchor_views[:, None] == self.row_views
        return same if self.half == "same" else ~same

    def anchors(self) -> list[Tensor]:
        """Return the places of each view's anchors, ``[N/V]`` int64, ascending."""
        return self._places(self.anchor_views)

    def rows(self) -> list[Tensor]:
        """Return the places of the rows that serve each view's anchors, ascending in a view."""
        own = self._places(self.row_views)
        if self.half == "same":
            return own
        return [torch.cat(own[:view] + own[view + 1 :]) for view in range(self.num_views)]

    def _places(self, views: Tensor) -> list[Tensor]:
        # How many there are of each view is known, so nothing is read back from a device.
        return list(views.argsort(stable=True).chunk(self.num_views))
