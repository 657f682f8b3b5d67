"""Logits of samples and weights of views by numpy: see :mod:`negplug.kernels.views`.

For small batches on the CPU, of which an operation of torch costs more than its arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def scores_on_host(
    logits: Tensor,
    rows: Tensor,
    own: Tensor,
    missing: tuple[Tensor, int] | None,
    ids: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return logits of samples; see :func:`negplug.kernels.views.sample_scores`."""
    views = rows.numpy()
    scores = np.logaddexp.reduce(logits.numpy()[views], 0)
    scores -= math.log(len(views))
    scores[own.numpy() == np.arange(len(scores))[:, None]] = -np.inf
    if ids is not None:
        anchors, others = (each.numpy() for each in ids)
        same = (others[views][:, :, None] == anchors).any(0)
        scores[same & (anchors != -1)] = -np.inf
    if missing is not None:
        samples, empty = missing
        scores[samples.numpy() == empty] = -np.inf
    return torch.from_numpy(scores)


def spread_on_host(logits: Tensor, rows: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Return log weights of rows; see :func:`negplug.kernels.views.spread_`."""
    views, score, weight = rows.numpy(), scores.numpy(), weights.numpy()
    drawn = (weight > 2 * np.finfo(weight.dtype).tiny) & (score > -np.inf)
    each = np.log(np.where(drawn, weight, 1)) - np.where(drawn, score, 0) - math.log(len(views))
    logits.numpy()[views] += np.where(drawn, each, -np.inf)
    return logits
