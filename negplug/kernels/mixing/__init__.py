"""Unit mixtures (α u + (1 − α) v)/‖·‖ of two different rows among those chosen for an anchor.

The norm needs only that of the two rows, which have unit length,

    ‖α u + (1 − α) v‖² = 1 − 2α(1 − α)(1 − ⟨u, v⟩),

so that nothing here has ``[N, M, d]`` numbers. Of n rows the first is number ⌊n·x⌋ and the second
number (⌊n·x⌋ + 1 + ⌊(n − 1)·y⌋) mod n with x, y ~ U(0, 1), so that each pair is equally likely.

- :mod:`negplug.kernels.mixing.compiled`, one mixture after the other, in numba, on the CPU;
- :mod:`negplug.kernels.mixing.plain`, in torch operations, on any device.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, numba_refusal
from negplug.kernels.mixing.plain import plain_mixtures, unit_coefficients

__all__ = ["MIXTURES", "unit_coefficients", "unit_mixtures"]


MIXTURES: Operation[None] = Operation(
    "mixtures of two rows",
    None,
    (
        Kernel("numba", lazily("mixing.compiled", "compiled_mixtures"), numba_refusal),
        Kernel("torch", lambda: plain_mixtures),
    ),
)


def unit_mixtures(
    pool: Tensor, columns: Tensor, numbers: Tensor | int, drawn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two columns of each mixture, and what it takes of their rows.

    Args:
        pool: ``[K, d]`` rows of unit length, float32 or float64; without gradient.
        columns: ``[N, C]`` int64, the rows that are chosen for each anchor.
        numbers: How many of them, from the first on, are to be mixed, from 2 to C: ``[N, 1]``
            int64, or one number for all anchors.
        drawn: ``[3, N, M]`` uniform numbers in (0, 1) as drawn: x, y and α. Not kept.

    Returns:
        Columns ``[N, M]`` int64 of the first and of the second rows, and ``[N, M, 2]`` coefficients
        of the pool's type.
    """
    kernel = MIXTURES.kernel(pool.device, None)
    mixed: tuple[Tensor, Tensor, Tensor] = kernel(pool, columns, numbers, drawn)
    return mixed
