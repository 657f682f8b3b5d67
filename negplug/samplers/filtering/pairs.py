"""Single pairs of samples that are never each other's negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.samplers.common.metadata_given import read_table
from negplug.samplers.common.metadata_table import check_indexed
from negplug.samplers.filtering import at_entries

# Pairs are looked up so many entries at a time: 64 MiB of integers.
_AT_ONCE = 2**23


class Pairs:
    """Unordered pairs {i, j} of data set indexes.

    Args:
        name: The sampler's name, for messages.
        pairs: The path of a ``.npy`` file, or a tensor, of integers ``[p, 2]``.

    Raises:
        TypeError, ValueError: If they are no pairs of indexes.
    """

    def __init__(self, name: str, pairs: str | Tensor) -> None:
        self.name = name
        what, table = read_table(name, "pairs", pairs)
        if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
            raise TypeError(f"{what} must hold integers, got {table.dtype}")
        if table.ndim != 2 or table.shape[1] != 2 or not len(table):
            raise ValueError(f"{what} must hold pairs, [p, 2], got {tuple(table.shape)}")
        table = table.to(torch.int64)
        least, greatest = int(table.min()), int(table.max())
        if least < 0 or greatest >= 2**31:
            raise ValueError(
                f"{what} must hold data set indexes from 0 to 2**31 - 1, got "
                f"{least if least < 0 else greatest}"
            )
        # {i, j} as the number i·n + j and as j·n + i, in order, so that it is found by bisection.
        self._samples = greatest + 1
        first, second = table.unbind(1)
        both = torch.cat([first * self._samples + second, second * self._samples + first])
        self._numbers = torch.unique(both)

    def __str__(self) -> str:
        """Return what tells these pairs from others."""
        return f"{len(self._numbers)} pairs, sum {int(self._numbers.sum())}"

    def remove(self, source: NegativeSampler, batch: ContrastiveBatch, part: Negatives) -> Tensor:
        """Return ``[N, E]``, True where anchor and entry are a pair.

        Raises:
            ValueError: If data set indexes are unknown in training.
        """
        shape = len(batch.anchors), part.width
        if not check_indexed(self.name, source, batch, part.rows):
            return torch.zeros(shape, dtype=torch.bool, device=batch.anchors.ids.device)
        assert batch.anchors.indexes is not None
        assert part.rows.indexes is not None
        own, theirs = batch.anchors.indexes, at_entries(part, part.rows.indexes)
        self._numbers = self._numbers.to(own.device)
        height = max(1, _AT_ONCE // max(part.width, 1))
        blocks = zip(
            *(torch.split(whole, height) for whole in (own, theirs.expand(shape))), strict=True
        )
        return torch.cat([self._paired(*block) for block in blocks])

    def _paired(self, own: Tensor, theirs: Tensor) -> Tensor:
        known = ((own >= 0) & (own < self._samples))[:, None] & (theirs >= 0)
        known &= theirs < self._samples
        numbers = own[:, None] * self._samples + theirs
        place = torch.searchsorted(self._numbers, numbers).clamp_(max=len(self._numbers) - 1)
        return known.logical_and_(self._numbers[place] == numbers)
