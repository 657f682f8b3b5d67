"""Random draws: keyed by counters, uniform, without replacement, O(N·M).

``Draws`` turns the place of a call in the run into a generator of its own.
``distinct_ranks`` draws, for each row, M distinct integers below that row's bound:

- few of many (4·M ≤ bound): one after the other (:mod:`negplug.kernels.random`);
- otherwise: the M largest of ``bound`` < 4·M random keys.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from negplug.kernels.precision import widest
from negplug.kernels.random import distinct_integers, write_uniforms


@dataclass(frozen=True)
class Draws:
    """Counters that key every random draw.

    A draw is a function of ``(seed, step, call, rank)`` and of the sampler's place in its
    expression: there is no generator state to save or to gather, and the global random number
    generators of torch are never touched.

    Attributes:
        seed: The run's seed.
        step: Training steps done so far.
        call: Number of the loss call inside its step.
        rank: This process in the process group.
    """

    seed: int = 0
    step: int = 0
    call: int = 0
    rank: int = 0

    def generator(self, stream: int, device: torch.device) -> torch.Generator:
        """Return the generator of one sampler (numbered ``stream``) for this call."""
        return torch.Generator(device=device).manual_seed(self.seed_of(stream))

    def seed_of(self, stream: int) -> int:
        """Return the seed of one sampler for this call."""
        key = struct.pack("<5q", self.seed, self.step, self.call, self.rank, stream)
        digest = hashlib.blake2b(key, digest_size=8).digest()
        # torch takes seeds below 2**63 on every device.
        return int.from_bytes(digest, "little") >> 1


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


def distinct_ranks(
    bounds: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Draw ``count`` distinct integers in [0, bound) for each row.

    Args:
        bounds: ``[N]`` int64.
        count: M ≥ 1.
        generator: On the device of ``bounds``.

    Returns:
        ``ranks [N, M]`` int64, and a mask ``[N, M]`` that is False where a row's bound is below
        M and it has no more to give (None if no row is so short). Short rows give all they have.
    """
    most, least = int(bounds.max()), int(bounds.min())
    count = min(count, max(most, 1))
    ample = bounds.clamp(min=count)
    few = ample >= 4 * count
    seed = torch.randint(2**62, (), generator=generator, device=bounds.device)
    if least >= 4 * count:
        ranks = distinct_integers(ample, count, seed)
    else:
        ranks = ample.new_empty(len(bounds), count)
        if few.any():
            ranks[few] = distinct_integers(ample[few], count, seed)
        ranks[~few] = _by_random_keys(ample[~few], count, generator)
    if least >= count:
        return ranks, None
    slot = torch.arange(count, device=bounds.device)
    short = (bounds < count)[:, None]
    mask = ~short | (slot < bounds[:, None])
    return torch.where(short, torch.where(mask, slot, 0), ranks), mask


# Comparing with each takes less time than a search.
_FEW_EXCLUDED = 4


def ranks_to_columns_(ranks: Tensor, excluded: Tensor) -> Tensor:
    """Turn rank r into the r-th column that is not excluded, in place, and return the ranks.

    With the excluded columns x_0 < x_1 < … of a row, column = r + #{j: x_j − j ≤ r}. What was
    found of x_0 … x_{j−1} has been added to r when x_j is compared, so all that counts is x_j ≤ r.

    Args:
        ranks: ``[N, M]`` int64.
        excluded: ``[N, E]`` int64, ascending in each row, padded with ``exclusion.BEYOND``.
    """
    if excluded.shape[1] > _FEW_EXCLUDED:
        shifted = excluded - torch.arange(excluded.shape[1], device=excluded.device)
        return ranks.add_(torch.searchsorted(shifted, ranks, right=True))
    for each in excluded.T:
        ranks += each[:, None] <= ranks
    return ranks


def _by_random_keys(bounds: Tensor, count: int, generator: torch.Generator) -> Tensor:
    width = int(bounds.max())
    keys = torch.rand((len(bounds), width), device=bounds.device, generator=generator)
    beyond = torch.arange(width, device=bounds.device) >= bounds[:, None]
    return keys.masked_fill_(beyond, -1.0).topk(count, dim=1, sorted=False).indices
