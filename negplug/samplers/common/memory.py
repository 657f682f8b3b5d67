"""Rows of past steps: what a queue and a memory bank have in common.

The memory is no buffer: DDP would overwrite it with rank 0's before every step, and a cast of the
model would round it. It follows the module between devices, keeps the type of the rows that it
was given, and is saved as the module's extra state, in tensors and built-in types.

Each row keeps three names beside it: its id, its data set index and its label (-1 = unknown).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN, or_unknown
from negplug.contract.inputs import check_flag
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.distributed import world_size
from negplug.samplers.common.settings import check_settings

_NAMES = 3


class MemorySampler(NegativeSampler):
    """A sampler whose pool is what it remembers of past keys.

    Args:
        gather: Whether to remember the keys of every rank, so that all ranks remember the same;
            otherwise each rank remembers its own, and its state is saved per rank.
    """

    wants_indexes = True
    remembers = True

    def __init__(self, gather: bool) -> None:
        super().__init__()
        self.gather = check_flag(type(self).__name__.lower(), "gather", gather)
        self.per_rank = not self.gather
        self._rows = torch.empty(0, 0)
        self._names = torch.empty(_NAMES, 0, dtype=torch.int64)
        self._count = 0

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that resumes."""

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Return the rows written so far, exclusion by id, and what :meth:`update` will write."""
        width = batch.anchors.shape[1]
        if self._rows.device != batch.anchors.device:
            # A memory that was loaded in a plain loop, where nobody moves the loss.
            self.to(batch.anchors.device)
        if self._count and self._rows.shape[1] != width:
            raise ValueError(
                f"{self}: holds embeddings of width {self._rows.shape[1]}, this batch has width "
                f"{width}; the width cannot change during training"
            )
        rows = self._rows[: self._count] if self._count else batch.anchors.new_empty(0, width)
        ids, indexes, labels = self._names[:, : self._count]
        return Negatives(
            pool=rows.to(batch.anchors),
            pool_ids=ids,
            pool_indexes=indexes,
            pool_labels=labels,
            aux=self._incoming(batch) if batch.training else {},
        )

    def _incoming(self, batch: ContrastiveBatch) -> dict[str, Tensor]:
        """Return the keys of this step and their names; the only exchange with other ranks."""
        if self.gather:
            batch = batch.gathered()
        # Ids below number the samples of this batch alone.
        names = [batch.key_ids.clamp(min=UNKNOWN), batch.key_indexes, batch.key_labels]
        together = torch.stack([or_unknown(name, batch.key_ids) for name in names])
        taken = slice(None) if self.gather else batch.own_keys
        return {"keys": batch.keys[taken].detach(), "names": together[:, taken]}

    def _reserve(self, capacity: int, like: Tensor) -> None:
        """Make room for ``capacity`` rows."""
        rows = like.new_zeros(capacity, like.shape[1])
        names = torch.full((_NAMES, capacity), UNKNOWN, device=like.device)
        if self._count:
            rows[: self._count] = self._rows[: self._count]
            names[:, : self._count] = self._names[:, : self._count]
        self._rows, self._names = rows, names

    def get_extra_state(self) -> dict[str, Any]:
        """Return the rows written so far, their names, and the settings."""
        return {
            "settings": self._all_settings(),
            "rows": self._rows[: self._count].clone(),
            "names": self._names[:, : self._count].clone(),
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ``ValueError`` if ``state`` was saved by another sampler or with other settings."""
        check_settings(self, self._all_settings(), state["settings"])
        rows, names = state["rows"], state["names"]
        if rows.ndim != 2 or names.shape != (_NAMES, len(rows)):
            raise ValueError(
                f"{self}: the saved state has rows {tuple(rows.shape)} and names "
                f"{tuple(names.shape)}, which do not fit together; the file is damaged"
            )

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned.

        Raises:
            ValueError: As :meth:`check_state`; nothing is changed then.
        """
        self.check_state(state)
        device = self._rows.device
        self._count = 0
        rows = state["rows"].to(device)
        # Nothing is reserved for an empty memory, which does not know its width yet.
        self._reserve(self._capacity(len(rows)) if len(rows) else 0, rows)
        self._count = len(rows)
        self._rows[: self._count] = rows
        self._names[:, : self._count] = state["names"].to(device)

    def _all_settings(self) -> dict[str, Any]:
        return self.settings() | {"world_size": world_size(), "gather": self.gather}

    def _capacity(self, count: int) -> int:
        """Return how many rows to make room for when ``count`` are there."""
        return self.most or count

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MemorySampler:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(self._rows[:0]).device
        self._rows, self._names = self._rows.to(device), self._names.to(device)
        return self
