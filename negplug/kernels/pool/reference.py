"""Log-sum-exp over a whole pool by its definition, for autograd; materialises ``[N, K]``.

Similarities are summed in float64, as a reference should.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.precision import widest


def full_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return ℓ; see :func:`negplug.kernels.pool.pool_logsumexp`."""
    wide = widest(anchors.device)
    # A copy, for a pool may be written to before the backward pass, as a queue is.
    logits = (anchors.to(wide) @ pool.to(wide, copy=True).T).to(anchors.dtype) / temperature
    if log_weight is not None:
        logits = logits + log_weight
    logits = logits.masked_fill(anchor_ids[:, None] == pool_ids, -torch.inf)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return row_logsumexp(logits)


def row_logsumexp(logits: Tensor) -> Tensor:
    """Return the log-sum-exp of each row; -inf with zero gradient for a row of nothing but -inf."""
    # torch's own gradient is NaN there.
    none = (logits == -torch.inf).all(1)
    total = torch.logsumexp(logits.masked_fill(none[:, None], 0.0), dim=1)
    return total.masked_fill(none, -torch.inf)
