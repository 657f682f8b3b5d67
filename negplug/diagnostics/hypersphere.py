"""Alignment and uniformity on the unit hypersphere (Wang and Isola 2020, arXiv:2005.10242).

    alignment  = E ‖x − y‖^α          over positive pairs           (equation 1)
    uniformity = log E e^{−t‖x − y‖²}  over independent pairs         (equation 2)

Both fall as representations improve. Rows are scaled to unit length first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from negplug.contract.ids import BEYOND, UNKNOWN
from negplug.kernels.pool import pool_logsumexp
from negplug.kernels.unit import unit_rows


def alignment(x: Tensor, y: Tensor, alpha: float = 2.0) -> Tensor:
    """Return the mean of ‖x − y‖^α, a scalar: 0 if every pair coincides.

    Args:
        x: ``[n, d]``, of any floating type.
        y: ``[n, d]``; row i is the positive of row i of ``x``.
        alpha: α > 0.

    Raises:
        ValueError: If ``alpha`` is out of range, the shapes differ, or there is no pair.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    if x.ndim != 2 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"x and y must be [n, d] of the same shape with n >= 1, got {list(x.shape)} and "
            f"{list(y.shape)}"
        )
    squared = (unit_rows(x) - unit_rows(y)).square().sum(1)
    return squared.mean() if alpha == 2 else squared.pow(alpha / 2).mean()


def uniformity(x: Tensor, t: float = 2.0, ids: Tensor | None = None) -> Tensor:
    """Return the logarithm of the mean Gaussian potential of pairs of rows, a scalar ≤ 0.

    With ‖x − y‖² = 2 − 2⟨x, y⟩ it is the log-sum-exp of logits 2t⟨x, y⟩, which is streamed in
    tiles: ``[n, n]`` never exists, and nothing underflows.

    Args:
        x: ``[n, d]``, of any floating type.
        t: t > 0.
        ids: ``[n]`` integers; rows of one id are no pair (two views of a sample are not
            independent), -1 is an id of its own. By default all rows differ.

    Raises:
        ValueError: If ``t`` is out of range, the shapes do not fit, or there is no pair.
    """
    if not t > 0:
        raise ValueError(f"t must be above 0, got {t}")
    if x.ndim != 2 or (ids is not None and ids.shape != x.shape[:1]):
        of_ids = "" if ids is None else f" and {list(ids.shape)}"
        raise ValueError(f"x must be [n, d] and ids [n], got {list(x.shape)}{of_ids}")
    rows = torch.arange(len(x), device=x.device)
    names = rows if ids is None else ids.where(ids != UNKNOWN, BEYOND - rows)
    together = torch.unique(names, return_counts=True)[1]
    pairs = len(x) ** 2 - int(together.square().sum())  # each in both orders
    if pairs == 0:
        raise ValueError(f"uniformity needs two rows of different ids, got {len(x)} of one")
    unit = unit_rows(x)
    total = pool_logsumexp(unit, unit, names, names, 1.0 / (2.0 * t)).logsumexp(0)
    return total - 2.0 * t - math.log(pairs)
