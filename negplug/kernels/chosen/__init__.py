"""Similarities of chosen pairs, s_im = ⟨a_i, k_{c(i,m)}⟩, and their log-sum-exp.

Both are differentiable in anchors and pool. With g the gradient of s,

    ∂L/∂a_i = Σ_m g_im k_{c(i,m)},        ∂L/∂k_j = Σ_{(i,m): c(i,m) = j} g_im a_i.

- :mod:`negplug.kernels.chosen.fused`, programs in Triton, for a GPU, which alone make the
  log-sum-exp in one pass; others sum it of similarities;
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

from negplug.kernels.choice import Kernel, Operation, lazily, numba_refusal, triton_refusal
from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.dense import dense_similarities
from negplug.kernels.chosen.reference import (
    gathered_logsumexp,
    gathered_similarities,
    weighted_logsumexp,
)

__all__ = ["CHOSEN", "CHOSEN_LOGSUMEXP", "chosen_logsumexp", "chosen_similarities"]


# Pairs in all: half of the columns of 64 rows.
_FEW = 2048


class Sizes(NamedTuple):
    """N anchors, M columns of each, K rows of the pool."""

    anchors: int
    columns: int
    pool: int


def _scarce(share: int) -> Callable[[Sizes], bool]:
    """Return whether less than one in ``share`` pairs is chosen."""
    return lambda sizes: sizes.columns * share < sizes.pool


def _for_loops(sizes: Sizes) -> bool:
    """Return whether loops take less time than whole products and the calls around them."""
    return sizes.anchors * sizes.columns <= _FEW or _scarce(12)(sizes)


def _dense_refusal(device: torch.device) -> str | None:
    return None if device.type == "cpu" else "it has been measured on CPUs only"


# About the shares at which the dense kernel draws level (benchmarks/speed/chosen_columns.py):
# K/M = 10 to 15 with numba, 12 to 24 with torch.
CHOSEN: Operation[Sizes] = Operation(
    "similarities of chosen columns",
    Sizes(anchors=512, columns=64, pool=65536),
    (
        Kernel("triton", lazily("chosen.fused", "fused_similarities"), triton_refusal),
        Kernel(
            "numba", lazily("chosen.compiled", "compiled_similarities"), numba_refusal, _for_loops
        ),
        Kernel("torch", lambda: bag_similarities, suits=_scarce(17)),
        Kernel("torch", lambda: dense_similarities, _dense_refusal),
        Kernel("torch", lambda: bag_similarities),
        Kernel("reference", lambda: gathered_similarities),
    ),
)


def _summed_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    columns: Tensor,
    temperature: float,
    log_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    similarities = chosen_similarities(anchors, pool, columns, mask)
    return weighted_logsumexp(similarities, temperature, log_weight, mask)


CHOSEN_LOGSUMEXP: Operation[None] = Operation(
    "log-sum-exp of chosen columns",
    None,
    (
        Kernel("triton", lazily("chosen.fused", "fused_logsumexp"), triton_refusal),
        Kernel("torch", lambda: _summed_logsumexp),
        Kernel("reference", lambda: gathered_logsumexp),
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


def chosen_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    columns: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return log Σ_m w_im exp(⟨a_i, k_{c(i,m)}⟩/τ), ``[N]``; -inf (and no gradient) of no pair.

    Args:
        anchors: ``[N, d]``, float32 or float64.
        pool: ``[K, d]``, likewise.
        columns: ``[N, M]`` int64 in [0, K).
        temperature: τ > 0.
        log_weight: Detached, ``[N|1, M]``.
        mask: ``[N, M]`` bool, True where a pair counts.
    """
    kernel = CHOSEN_LOGSUMEXP.kernel(anchors.device, None)
    total: Tensor = kernel(anchors, pool, columns, temperature, log_weight, mask)
    return total
