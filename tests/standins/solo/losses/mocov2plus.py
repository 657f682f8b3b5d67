"""MoCo's loss: cross-entropy of a query's key against a queue of past keys.

    L = −mean_i log( e^{⟨q_i, k_i⟩/τ} / (e^{⟨q_i, k_i⟩/τ} + Σ_j e^{⟨q_i, n_j⟩/τ}) )

Source: He et al. 2020 (https://arxiv.org/abs/1911.05722), equation 1. The caller has normalized all
three.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mocov2plus_loss_func(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1
) -> Tensor:
    """Return the loss of ``[N, d]`` queries and keys.

    Args:
        query: Anchors.
        key: Row i is the positive of query i.
        queue: ``[d, K]``, a past key in each column.
        temperature: τ.
    """
    positive = (query * key).sum(1) / temperature
    negative = query @ queue / temperature
    everything = torch.cat([positive[:, None], negative], 1)
    return (everything.logsumexp(1) - positive).mean()
