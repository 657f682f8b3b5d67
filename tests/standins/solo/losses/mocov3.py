"""MoCo v3's loss: cross-entropy of a query's key against the keys of all ranks, times 2τ.

    L = −2τ mean_i log( e^{⟨q_i, k_i⟩/τ} / Σ_j e^{⟨q_i, k_j⟩/τ} ),    rows of unit length

Source: Chen et al. 2021 (https://arxiv.org/abs/2104.02057), algorithm 1.
"""

from __future__ import annotations

import torch
from solo.utils.misc import concat_all_gather_no_grad, get_rank
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def mocov3_loss_func(query: Tensor, key: Tensor, temperature: float = 0.2) -> Tensor:
    """Return the loss of ``[N, d]`` queries; row i of ``key`` is the positive of query i."""
    keys = concat_all_gather_no_grad(normalize(key, dim=1))
    logits = normalize(query, dim=1) @ keys.T / temperature
    own = torch.arange(len(query), device=query.device) + get_rank() * len(query)
    return 2 * temperature * cross_entropy(logits, own)
