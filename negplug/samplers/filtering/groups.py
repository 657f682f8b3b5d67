"""Groups of samples that are never each other's negatives: a patient, a video, a scene, a tile.

With g_i the group of sample i and t_i its place inside of it (a time, say), j is no negative of i
if

    g_j = g_i ≥ 0   and, with a window Δ,   |t_j − t_i| ≤ Δ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.inputs import check_number
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.samplers.common.metadata_given import check_classes, read_table
from negplug.samplers.common.metadata_table import MetadataTable
from negplug.samplers.filtering import at_entries


class Groups:
    """The samples' groups, and their places inside of them.

    Args:
        name: The sampler's name, for messages.
        file: The path of a ``.npy`` file, or a tensor: ``[n]`` or ``[n, 1]`` integers, one group
            per data set index, -1 where unknown; with a window ``[n, 2]``, groups and places.
        window: Δ ≥ 0; None for the whole group.
        parent: Whether the file is of the data set that the training ``Subset`` was taken from.
        column: The column of the data set that holds the groups, in place of a file.

    Raises:
        TypeError, ValueError: If the file holds no groups, or there are no places for a window.
    """

    def __init__(
        self,
        name: str,
        file: str | Tensor | None,
        window: float | None,
        parent: bool,
        column: str | None,
    ) -> None:
        self.window: float | None = None
        self._places: MetadataTable | None = None
        if file is None:
            assert column is not None
            self._groups = MetadataTable(name, column)
            return
        what, table = read_table(name, "file", file)
        columns = 1 if window is None else 2
        if table.ndim == 1:
            table = table[:, None]
        if table.ndim != 2 or table.shape[1] != columns:
            wanted = "groups, [n]" if window is None else "groups and places, [n, 2], for a window"
            raise ValueError(f"{what} must hold {wanted}, got {tuple(table.shape)}")
        groups = table[:, 0]
        if table.is_floating_point() and window is not None:
            _check_finite(what, table)
            groups = _whole(what, groups)
        self._groups = MetadataTable(name, check_classes(what, groups, "groups"), parent)
        if window is not None:
            self.window = check_number(name, "window", window, 0, torch.inf)
            places = table[:, 1] if table.is_floating_point() else table[:, 1].to(torch.int64)
            self._places = MetadataTable(name, places, parent)

    def __str__(self) -> str:
        """Return what tells these groups from others."""
        return f"{self._groups}" if self.window is None else f"{self._groups}, {self._places}"

    def remove(self, source: NegativeSampler, batch: ContrastiveBatch, part: Negatives) -> Tensor:
        """Return ``[N, E]``, True where an entry is of the anchor's group and window.

        Raises:
            ValueError: If data set indexes are unknown in training, or the file does not fit.
        """
        own, theirs = self._groups.of(source, batch, part.rows)
        own_group = own.values.where(own.known, -1)[:, None]
        same = own_group == at_entries(part, theirs.values.where(theirs.known, -1))
        same = same.logical_and_(own_group >= 0)
        if self._places is not None:
            assert self.window is not None
            here, there = self._places.of(source, batch, part.rows)
            apart = (here.values[:, None] - at_entries(part, there.values)).abs()
            same = same.logical_and_(apart <= self.window)
        return same


def _whole(what: str, groups: Tensor) -> Tensor:
    whole = groups.to(torch.int64)
    if (whole != groups).any():
        raise TypeError(f"{what} must hold integers in its first column, got {float(groups[0])}")
    return whole


def _check_finite(what: str, table: Tensor) -> None:
    if not table.isfinite().all():
        raise ValueError(f"{what} must hold finite numbers, got NaN or infinity")
