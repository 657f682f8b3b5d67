"""Rows of past steps: what a queue and a memory bank have in common.

Each row keeps three names beside it: its id, its data set index and its label (-1 = unknown).

A row of the past has no gradient. Where the loss trains its keys, as SimCLR's does, nothing pushes
back on the anchors, and the embeddings run from where they were instead of spreading; with a
momentum encoder (He et al. 2020, arXiv:1911.05722) the keys of the loss have no gradient either,
and the positive holds the anchor. The first step tells one from the other, and warns.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN, or_unknown
from negplug.contract.inputs import check_flag, check_room
from negplug.contract.negatives import Negatives
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler, Sampled
from negplug.contract.state import Ranks, Stateful
from negplug.samplers.common.saved_rows import check_unit_rows, check_width

_NAMES = 3
_numbers = itertools.count()


class Arriving(NamedTuple):
    """Keys of a step that a memory will write.

    Attributes:
        keys: ``[n, d]``, detached.
        names: ``[3, n]`` int64: id, data set index and label of each.
    """

    keys: Tensor
    names: Tensor


class RememberingSampler(Stateful, NegativeSampler):
    """A sampler whose pool is what it remembers of past keys.

    A subclass implements ``update``, which gets :class:`Arriving`, and ``settings``. Its ``size``
    is the number of rows that it reserves; None if that is unknown.

    Args:
        gather: Whether to remember the keys of every rank, so that all ranks remember the same.
            Otherwise each rank remembers its own keys, and each rank's state is saved.

    Attributes:
        ranks: What its states are declared with.
        num_views: That of its rows, see :class:`.Rows`.
        later: Whether a schedule lets it serve only later.
    """

    wants_indexes = True
    remembers = True
    rows: Tensor
    names: Tensor
    count: int
    size: int | None = None
    num_views: int | None = None
    later = False

    def __init__(self, gather: bool) -> None:
        super().__init__()
        self.gather = check_flag(type(self).__name__.lower(), "gather", gather)
        self.ranks: Ranks = "same" if gather else "own"
        self.add_state("rows", 0.0, (None, None), self.ranks)
        self.add_state("names", UNKNOWN, (_NAMES, None), self.ranks)
        self.add_state("count", 0, ranks=self.ranks)
        self._warned = False
        # Of no other memory, equal ones included; copies serve other calls.
        self._name = f"{type(self).__name__.lower()} {next(_numbers)}"

    @property
    def _count(self) -> int:
        """How many rows are written, by the name that scripts from outside still read."""
        return self.count

    def sample(self, batch: ContrastiveBatch) -> Sampled:
        """Return the rows written so far, exclusion by id, and what :meth:`update` will write.

        Raises:
            ValueError: If there is no room for the memory, or it holds rows of another width.
        """
        anchors = batch.anchors.embeddings
        if batch.training and not self.count and self.size is not None:
            # Now, and not after the first backward pass.
            bytes_each = anchors.shape[1] * anchors.element_size() + 8 * _NAMES
            name, _, _ = str(self).partition("(")
            check_room(name, "size", self.size, self.size * bytes_each, anchors.device)
        if batch.training and not self._warned:
            self._warn_of_trained_keys(batch.keys.embeddings)
        if self.rows.device != anchors.device:
            # A memory that was loaded in a plain loop, which does not move the loss.
            self.to(anchors.device)
        check_width(str(self), self.rows[: self.count], anchors)
        rows = self.rows[: self.count] if self.count else anchors.new_empty(0, anchors.shape[1])
        ids, indexes, labels = self.names[:, : self.count]
        pool = Rows(rows.to(anchors), ids, indexes, labels, None, self.num_views, self._name)
        return Sampled(Negatives(pool), self._arriving(batch) if batch.training else None)

    def _warn_of_trained_keys(self, keys: Tensor) -> None:
        """Warn once, in the first training step, if the loss trains its keys."""
        self._warned = True
        if keys.requires_grad and not self.count and not self.later:
            warnings.warn(
                f"{self}: the loss trains its keys, and those of earlier steps have no gradient: "
                f"without a momentum encoder this can ruin the training; see whether "
                f"schedule(in_batch(), {self}, from_epochs=(0, 10)) does better",
                stacklevel=2,
            )

    def _arriving(self, batch: ContrastiveBatch) -> Arriving:
        """Return the keys of this step and their names; the only exchange with other ranks."""
        if self.gather:
            batch = batch.gathered()
        keys = batch.keys
        # Ids below number the samples of this batch alone.
        names = [keys.ids.clamp(min=UNKNOWN), keys.indexes, keys.labels]
        together = torch.stack([or_unknown(name, keys.ids) for name in names])
        taken = slice(None) if self.gather else batch.own_keys
        return Arriving(keys.embeddings[taken].detach(), together[:, taken])

    def reserve(self, capacity: int, like: Tensor) -> None:
        """Make room for ``capacity`` rows of the width and type of ``like``."""
        rows = like.new_zeros(capacity, like.shape[1])
        names = torch.full((_NAMES, capacity), UNKNOWN, device=like.device)
        if self.count:
            rows[: self.count] = self.rows[: self.count]
            names[:, : self.count] = self.names[:, : self.count]
        self.rows, self.names = rows, names

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless there is a name for each row and a row for each count."""
        rows, names = values["rows"], values["names"]
        if names.shape[1] != len(rows) or values["count"] > len(rows):
            raise ValueError(
                f"{self}: the saved state has rows {tuple(rows.shape)}, names "
                f"{tuple(names.shape)} and count {values['count']}, which do not fit together; the "
                f"file is damaged"
            )
        who = names[:2]  # ids and indexes; a label may be any integer
        if (who < UNKNOWN).any():
            raise ValueError(f"{self}: the saved names hold {int(who.min())}; the file is damaged")
        check_unit_rows(str(self), rows)

    def all_settings(self) -> dict[str, Any]:
        """Return the settings, and whether every rank's keys are remembered."""
        return super().all_settings() | {"gather": self.gather}
