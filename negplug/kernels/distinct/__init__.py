"""Distinct random integers: for each row, the first M different ones of a stream of its own.

Numbers that repeat an earlier one of the row are passed over, a rule that treats all values alike,
so every M-subset of [0, bound) is equally likely. Row i's stream is a counter-based generator,

    h_t = mix(mix(seed + i·γ) + t·γ),     t = 0, 1, 2, …,     number t = ⌊h_t/2⌋ mod bound,

with mix and γ of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators", OOPSLA, figure 13), so that a kernel may draw in any order it likes: all give the same
sets, on every device. No number's probability is off by more than bound · 2⁻⁶³.

- :mod:`negplug.kernels.distinct.compiled`, one number after the other, in numba, on the CPU;
- :mod:`negplug.kernels.distinct.sorting`, all rows at once, in torch operations, on any device.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, numba_refusal
from negplug.kernels.distinct.sorting import sorted_integers

__all__ = ["DISTINCT", "distinct_integers"]


def _compiled_integers() -> Callable[..., Tensor]:
    from negplug.kernels.distinct.compiled import compiled_integers

    return compiled_integers


DISTINCT: Operation[None] = Operation(
    "distinct random integers",
    None,
    (
        Kernel("numba", _compiled_integers, numba_refusal),
        Kernel("torch", lambda: sorted_integers),
    ),
)


def distinct_integers(bounds: Tensor, count: int, seed: Tensor) -> Tensor:
    """Return M distinct integers in [0, bound) for each row, ``[N, M]`` int64, in any order.

    Args:
        bounds: ``[N]`` int64, well above M: the time grows with the numbers that are passed over.
        count: M ≥ 1.
        seed: One int64, on the device of ``bounds``.
    """
    drawn: Tensor = DISTINCT.kernel(bounds.device, None)(bounds, count, seed)
    return drawn
