"""Logits of samples from those of their views, and weights of views from those of samples.

Over a pool whose samples all have V views, with s_iu the logits of anchor i and the views u of a
sample c,

    S_ic = log (1/V) Σ_u e^{s_iu},      log w_iu = log W_ic + s_iu − log Σ_u e^{s_iu}.

Kernels: :mod:`negplug.kernels.views.fused`, in Triton, on a GPU; :mod:`negplug.kernels.views.host`,
in numpy, for small batches on the CPU; :mod:`negplug.kernels.views.gathering`, in torch operations,
on any device.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, numpy_refusal, triton_refusal
from negplug.kernels.views.gathering import gathered_scores, spread_by_rows
from negplug.kernels.views.host import scores_on_host, spread_on_host

__all__ = ["SCORES", "SPREADING", "few", "sample_scores", "spread_"]


# Numbers; beyond so many an operation of torch costs less than numpy's.
_FEW = 2**12


def few(samples: int, anchors: int) -> bool:
    """Return whether numpy takes less time on a CPU than operations of torch."""
    return samples * anchors <= _FEW


class Sizes(NamedTuple):
    """C samples and N anchors."""

    samples: int
    anchors: int


def _few(sizes: Sizes) -> bool:
    return few(*sizes)


SCORES: Operation[Sizes] = Operation(
    "logits of samples",
    Sizes(256, 512),
    (
        Kernel("triton", lazily("views.fused", "fused_scores"), triton_refusal),
        Kernel("numpy", lambda: scores_on_host, numpy_refusal, _few),
        Kernel("torch", lambda: gathered_scores),
    ),
)
SPREADING: Operation[Sizes] = Operation(
    "weights of views",
    Sizes(256, 512),
    (
        Kernel("triton", lazily("views.fused", "fused_spread"), triton_refusal),
        Kernel("numpy", lambda: spread_on_host, numpy_refusal, _few),
        Kernel("torch", lambda: spread_by_rows),
    ),
)


def sample_scores(
    logits: Tensor,
    rows: Tensor,
    own: Tensor,
    missing: tuple[Tensor, int] | None,
    ids: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return the logits of samples, ``[C, N]``; -inf of what is no negative.

    Args:
        logits: ``[K, N]``, of rows and anchors.
        rows: ``[V, C]`` int64, the row of each view.
        own: ``[N]`` int64, the column of each anchor's own sample, -1 if it is not here.
        missing: The samples ``[C]`` int64, and what stands for one that is none; None if all are.
        ids: Ids of anchors ``[N]`` and rows ``[K]``: a sample with a row of an anchor's id is none
            of its negatives, -1 being unknown; None if there are none to compare.
    """
    kernel = SCORES.kernel(logits.device, Sizes(rows.shape[1], logits.shape[1]))
    scores: Tensor = kernel(logits, rows, own, missing, ids)
    return scores


def spread_(logits: Tensor, rows: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Write the log weights of rows over their logits ``[K, N]``, and return them.

    Args:
        logits: As in :func:`sample_scores`.
        rows: As in :func:`sample_scores`, of every row of the pool.
        scores: ``[C, N]``.
        weights: ``[C, N]``, of the samples; too small ones count as 0.
    """
    kernel = SPREADING.kernel(logits.device, Sizes(rows.shape[1], logits.shape[1]))
    spread: Tensor = kernel(logits, rows, scores, weights)
    return spread
