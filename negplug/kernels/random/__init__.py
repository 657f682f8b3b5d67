"""Random numbers that are the same whatever computes them, on every device.

They come from a counter-based generator: number t of a stream is a hash of t, so it depends on no
thread and on no other number,

    h_t = mix(seed + t·γ),

with mix and γ of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators", OOPSLA, figure 13).

- **Uniform numbers**, ½ + (k + ½) · 2⁻³² in (0, 1), k being the lower and then the upper 32 bits of
  h_t as a signed integer, for t = 1, 2, …. So many bits matter: of exponential variables −log u
  one in 2³² is the largest that there can be, 22.9, and wins over any score; of 24 bits one in a
  few million would be.
- **Distinct integers**, for each row the first M different ones of a stream of its own, whose seed
  is mix(seed + i·γ): ⌊h_t/2⌋ mod bound for t = 0, 1, …. What repeats an earlier one is passed
  over, a rule that treats all values alike, so every M-subset of [0, bound) is equally likely; no
  number's probability is off by more than bound · 2⁻⁶³.

Kernels: :mod:`negplug.kernels.random.compiled`, one number after the other, in numba, on the CPU;
in torch operations, on any device, :mod:`negplug.kernels.random.hashing`, and for distinct integers
:mod:`negplug.kernels.random.sorting` and, where they are a good part of all,
:mod:`negplug.kernels.random.marking`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, numba_refusal
from negplug.kernels.random.hashing import hashed_uniforms
from negplug.kernels.random.marking import marked_integers
from negplug.kernels.random.sorting import sorted_integers

__all__ = ["DISTINCT", "UNIFORMS", "distinct_integers", "write_uniforms"]


class Sizes(NamedTuple):
    """M integers, and the largest bound."""

    drawn: int
    bound: int


def _compiled_integers() -> Callable[..., Tensor]:
    from negplug.kernels.random.compiled import compiled_integers

    return compiled_integers


def _compiled_uniforms() -> Callable[..., None]:
    from negplug.kernels.random.compiled import compiled_uniforms

    return compiled_uniforms


# On 2 CPU cores sorting and marking draw level at bound/M = 11.
DISTINCT: Operation[Sizes] = Operation(
    "distinct random integers",
    Sizes(drawn=64, bound=65536),
    (
        Kernel("numba", _compiled_integers, numba_refusal),
        Kernel("torch", lambda: marked_integers, suits=lambda it: 11 * it.drawn > it.bound),
        Kernel("torch", lambda: sorted_integers),
    ),
)

UNIFORMS: Operation[None] = Operation(
    "uniform random numbers",
    None,
    (
        Kernel("numba", _compiled_uniforms, numba_refusal),
        Kernel("torch", lambda: hashed_uniforms),
    ),
)


def distinct_integers(bounds: Tensor, count: int, seed: Tensor) -> Tensor:
    """Return M distinct integers in [0, bound) for each row, ``[N, M]`` int64, in any order.

    Args:
        bounds: ``[N]`` int64, well above M: the time grows with the numbers that are passed over.
        count: M ≥ 1.
        seed: One int64, on the device of ``bounds``.
    """
    sizes = Sizes(count, int(bounds.max()))
    drawn: Tensor = DISTINCT.kernel(bounds.device, sizes)(bounds, count, seed)
    return drawn


def write_uniforms(out: Tensor, seed: Tensor, start: int = 0) -> None:
    """Write the uniform numbers of a stream from some place on.

    Args:
        out: ``[n]`` float64, which holds them exactly.
        seed: One int64, on the device of ``out``.
        start: How many numbers come before; even.
    """
    UNIFORMS.kernel(out.device, None)(out, seed, start)
