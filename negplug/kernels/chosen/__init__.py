"""Similarities of chosen pairs, s_im = ⟨a_i, k_{c(i,m)}⟩, differentiable in both arguments.

With g the gradient of s,

    ∂L/∂a_i = Σ_m g_im k_{c(i,m)},        ∂L/∂k_j = Σ_{(i,m): c(i,m) = j} g_im a_i.

- :mod:`negplug.kernels.chosen.compiled`, loops in numba, for tensors on the CPU;
- :mod:`negplug.kernels.chosen.dense`, whole products of which the chosen entries are kept: less
  work where they are a good part of them;
- :mod:`negplug.kernels.chosen.bags`, torch's embedding bags, on any device;
- :mod:`negplug.kernels.chosen.reference`, autograd through ``[N, M, d]``.

Every kernel sums in an order of its own that is always the same, so that a resumed run repeats
bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, numba_refusal
from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.dense import dense_similarities
from negplug.kernels.chosen.gradient import Similarities
from negplug.kernels.chosen.reference import gathered_similarities

__all__ = ["CHOSEN", "chosen_similarities"]


class Sizes(NamedTuple):
    """N anchors, M columns of each, K rows of the pool."""

    anchors: int
    columns: int
    pool: int


def _compiled_similarities() -> Similarities:
    from negplug.kernels.chosen.compiled import compiled_similarities

    return compiled_similarities


def _scarce(share: int) -> Callable[[Sizes], bool]:
    """Return whether less than one in ``share`` pairs is chosen."""
    return lambda sizes: sizes.columns * share < sizes.pool


def _dense_refusal(device: torch.device) -> str | None:
    return None if device.type == "cpu" else "it has been measured on CPUs only"


# About the shares at which the dense kernel draws level (benchmarks/speed/chosen_columns.py):
# K/M = 10 to 15 with numba, 12 to 24 with torch.
CHOSEN: Operation[Sizes] = Operation(
    "similarities of chosen columns",
    Sizes(anchors=512, columns=64, pool=65536),
    (
        Kernel("numba", _compiled_similarities, numba_refusal, _scarce(12)),
        Kernel("torch", lambda: bag_similarities, suits=_scarce(17)),
        Kernel("torch", lambda: dense_similarities, _dense_refusal),
        Kernel("torch", lambda: bag_similarities),
        Kernel("reference", lambda: gathered_similarities),
    ),
)


def chosen_similarities(
    anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return ⟨a_i, k_{c(i,m)}⟩, ``[N, M]``, differentiable in anchors and pool.

    Args:
        anchors: ``[N, d]``, float32 or float64.
        pool: ``[K, d]``, likewise.
        columns: ``[N, M]`` int64 in [0, K).
        mask: ``[N, M]`` bool; entries that are False get an arbitrary value and no gradient.
    """
    sizes = Sizes(len(columns), columns.shape[1], len(pool))
    similarities: Tensor = CHOSEN.kernel(anchors.device, sizes)(anchors, pool, columns, mask)
    return similarities
