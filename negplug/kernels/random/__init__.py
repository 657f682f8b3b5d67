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
- **Distinct integers**, M below b for each row, by Floyd's algorithm (Bentley and Floyd 1987,
  "Programming pearls: a sample of brilliance", CACM 30(9)) on a stream of its own, whose seed is
  mix(seed + i·γ). Step i = 0, …, M − 1 draws t_i = ⌊h_i/2⌋ mod (j_i + 1) with j_i = b − M + i, and
  takes j_i where t_i has been taken before, else t_i. Every M-subset of [0, b) is equally likely;
  no number's probability is off by more than b · 2⁻⁶³. The order is not random. A row with b < M
  gets all that there are, 0, …, b − 1, and zeros.

Kernels: :mod:`negplug.kernels.random.compiled`, one number after the other, in numba, on the CPU;
:mod:`negplug.kernels.random.fused`, in Triton, on a GPU; :mod:`negplug.kernels.random.hashing` and
:mod:`negplug.kernels.random.floyd`, in torch operations, on any device. Samplers draw from
:class:`negplug.kernels.random.numbers.RandomNumbers`, and rows of other ids than an anchor's by
:mod:`negplug.kernels.random.others`.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, numba_refusal, triton_refusal
from negplug.kernels.random.floyd import floyd_integers
from negplug.kernels.random.hashing import hashed_uniforms

__all__ = ["DISTINCT", "UNIFORMS", "distinct_integers", "write_uniforms"]


DISTINCT: Operation[None] = Operation(
    "distinct random integers",
    None,
    (
        Kernel("numba", lazily("random.compiled", "compiled_integers"), numba_refusal),
        Kernel("triton", lazily("random.fused", "fused_integers"), triton_refusal),
        Kernel("torch", lambda: floyd_integers),
    ),
)

UNIFORMS: Operation[None] = Operation(
    "uniform random numbers",
    None,
    (
        Kernel("numba", lazily("random.compiled", "compiled_uniforms"), numba_refusal),
        Kernel("triton", lazily("random.fused", "fused_uniforms"), triton_refusal),
        Kernel("torch", lambda: hashed_uniforms),
    ),
)


def distinct_integers(bounds: Tensor, count: int, seed: int | Tensor) -> Tensor:
    """Return M distinct integers in [0, bound) for each row, ``[N, M]`` int64, as drawn.

    Args:
        bounds: ``[N]`` int64, from 0 upwards; below M a row gets 0, …, bound − 1, and zeros.
        count: M ≥ 1.
        seed: A signed 64-bit integer; or an int64 ``[]``, which only torch operations read.
    """
    if isinstance(seed, Tensor):
        return floyd_integers(bounds, count, seed)
    drawn: Tensor = DISTINCT.kernel(bounds.device, None)(bounds, count, seed)
    return drawn


def write_uniforms(out: Tensor, seed: int | Tensor, start: int = 0) -> None:
    """Write the uniform numbers of a stream from some place on.

    Args:
        out: ``[n]`` float64, which holds them exactly; float32 where a device has no float64.
        seed: As for :func:`distinct_integers`.
        start: How many numbers come before; even.
    """
    if isinstance(seed, Tensor):
        hashed_uniforms(out, seed, start)
        return
    UNIFORMS.kernel(out.device, None)(out, seed, start)
