"""Random draws from a generator: exponential, and uniform without replacement in O(N·M).

:func:`distinct_places` draws, for each row, M distinct integers below that row's bound:

- few of many (4·M ≤ bound): one after the other (:mod:`negplug.kernels.random`);
- otherwise: the M largest of ``bound`` < 4·M random keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.precision import widest
from negplug.kernels.random import distinct_integers, write_uniforms

# Numbers at a time, so that all passes over them stay in a CPU's cache.
_AT_ONCE = {"cpu": 2**17}
_AT_ONCE_ELSEWHERE = 2**24


def exponentials(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard exponential variables −log u, above 0, of the type and device of ``like``.

    Where there is float64, u is that of :mod:`negplug.kernels.random`, keyed by one number of
    ``generator``: the same whatever computes it. A CPU's own generator goes number by number.
    """
    drawn = torch.empty(shape, dtype=like.dtype, device=like.device)
    if widest(like.device) != torch.float64:
        return drawn.exponential_(generator=generator).clamp_(min=torch.finfo(like.dtype).tiny)
    seed = torch.randint(2**62, (), generator=generator, device=like.device)
    width = min(drawn.numel(), _AT_ONCE.get(like.device.type, _AT_ONCE_ELSEWHERE))
    numbers = drawn.new_empty(width, dtype=torch.float64)
    for start in range(0, drawn.numel(), max(width, 1)):
        part = drawn.view(-1)[start : start + width]
        uniform = numbers[: len(part)]
        write_uniforms(uniform, seed, start)
        part.copy_(uniform.log_()).neg_()
    return drawn


def distinct_places(
    bounds: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Draw ``count`` distinct integers in [0, bound) for each row.

    Args:
        bounds: ``[N]`` int64.
        count: M ≥ 1.
        generator: On the device of ``bounds``.

    Returns:
        ``places [N, M]`` int64, and a mask ``[N, M]`` that is False where a row's bound is below
        M and it has no more to give (None if no row is so short). Short rows give all they have.
    """
    most, least = int(bounds.max()), int(bounds.min())
    count = min(count, max(most, 1))
    ample = bounds.clamp(min=count)
    few = ample >= 4 * count
    seed = torch.randint(2**62, (), generator=generator, device=bounds.device)
    if least >= 4 * count:
        places = distinct_integers(ample, count, seed)
    else:
        places = ample.new_empty(len(bounds), count)
        if few.any():
            places[few] = distinct_integers(ample[few], count, seed)
        places[~few] = _by_random_keys(ample[~few], count, generator)
    if least >= count:
        return places, None
    slot = torch.arange(count, device=bounds.device)
    short = (bounds < count)[:, None]
    mask = ~short | (slot < bounds[:, None])
    return torch.where(short, torch.where(mask, slot, 0), places), mask


# Comparing with each takes less time than a search.
_FEW_EXCLUDED = 4


def places_to_columns_(places: Tensor, excluded: Tensor) -> Tensor:
    """Turn place r into the r-th column that is not excluded, in place, and return the places.

    With the excluded columns x_0 < x_1 < … of a row, column = r + #{j: x_j − j ≤ r}. What was
    found of x_0 … x_{j−1} has been added to r when x_j is compared, so all that counts is x_j ≤ r.

    Args:
        places: ``[N, M]`` int64.
        excluded: ``[N, E]`` int64, ascending in each row, padded with ``exclusion.BEYOND``.
    """
    if excluded.shape[1] > _FEW_EXCLUDED:
        shifted = excluded - torch.arange(excluded.shape[1], device=excluded.device)
        return places.add_(torch.searchsorted(shifted, places, right=True))
    for each in excluded.T:
        places += each[:, None] <= places
    return places


def _by_random_keys(bounds: Tensor, count: int, generator: torch.Generator) -> Tensor:
    width = int(bounds.max())
    keys = torch.rand((len(bounds), width), device=bounds.device, generator=generator)
    beyond = torch.arange(width, device=bounds.device) >= bounds[:, None]
    return keys.masked_fill_(beyond, -1.0).topk(count, dim=1, sorted=False).indices
