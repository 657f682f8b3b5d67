"""Uniform draws without replacement, in O(N·M), and the columns that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.late import free_to_read, known
from negplug.kernels.random import distinct_integers
from negplug.kernels.random.numbers import RandomNumbers


def distinct_places(
    bounds: Tensor, count: int, random: RandomNumbers
) -> tuple[Tensor, Tensor | None]:
    """Draw ``count`` distinct integers in [0, bound) for each row.

    Args:
        bounds: ``[N]`` int64.
        count: M ≥ 1.
        random: On the device of ``bounds``.

    Returns:
        ``places [N, M]`` int64, and a mask ``[N, M]``. A row whose bound is below M gives all
        that it has, and its mask is False at the rest. On the CPU M is cut to the largest bound,
        and the mask is None if no row is short. On other devices it would take a wait to know.
    """
    least = None
    if free_to_read(bounds.device):
        least, most = known(bounds.min()), known(bounds.max())
        count = min(count, max(most, 1))
    places = distinct_integers(bounds, count, random.new_seed())
    if least is not None and least >= count:
        return places, None
    return places, torch.arange(count, device=bounds.device) < bounds[:, None]


# Comparing with each takes less time than a search.
_FEW_EXCLUDED = 4


def places_to_columns_(places: Tensor, excluded: Tensor) -> Tensor:
    """Turn place r into the r-th column that is not excluded, in place, and return the places.

    With the excluded columns x_0 < x_1 < … of a row, column = r + #{j: x_j − j ≤ r}. What was
    found of x_0 … x_{j−1} has been added to r when x_j is compared, so all that counts is x_j ≤ r.

    Args:
        places: ``[N, M]`` int64.
        excluded: ``[N, E]`` int64, ascending in each row, padded with ``ids.BEYOND``.
    """
    if excluded.shape[1] > _FEW_EXCLUDED:
        shifted = excluded - torch.arange(excluded.shape[1], device=excluded.device)
        return places.add_(torch.searchsorted(shifted, places, right=True))
    for each in excluded.T:
        places += each[:, None] <= places
    return places
