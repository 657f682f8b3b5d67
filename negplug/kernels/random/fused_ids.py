"""Draws among the rows of other ids in one launch on a GPU, after a sort.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.launching import launch
from negplug.kernels.random.fused import MOST, cut_of_draw
from negplug.kernels.random.numbers import RandomNumbers
from negplug.kernels.random.programs import distinct_others
from negplug.kernels.random.sorted_ids import LAST_ID, SortedIds
from negplug.kernels.sizes import cdiv


class FusedIds(SortedIds):
    """The rows of a pool by their ids; see :func:`negplug.kernels.random.others.others_of`."""

    def draw(self, count: int, random: RandomNumbers) -> tuple[Tensor, Tensor | None]:
        """Return distinct rows for each anchor, and always a mask."""
        if count > MOST or random.in_graph:
            return super().draw(count, random)
        seed = random.new_seed()
        ids, keys = self._anchor_ids.contiguous(), len(self._order)
        columns = ids.new_empty(len(ids), count)
        mask = ids.new_empty(len(ids), count, dtype=torch.bool)
        cut = cut_of_draw(len(ids), count, ids.device)
        launch(
            distinct_others,
            (cdiv(len(ids), cut["BR"]),),
            ids,
            self._ordered,
            self._order,
            columns,
            mask.view(torch.uint8),
            len(ids),
            keys,
            count,
            keys.bit_length(),
            LAST_ID,
            seed,
            SEED_ON_DEVICE=isinstance(seed, Tensor),
            **cut,
        )
        return columns, mask
