"""NNCLR's loss: cross-entropy of a neighbour's prediction against those of all ranks.

    L = −mean_i log( e^{⟨n_i, p_i⟩/τ} / Σ_j e^{⟨n_i, p_j⟩/τ} ),    rows of unit length

Source: Dwibedi et al. 2021 (https://arxiv.org/abs/2104.14548), equation 3.
"""

from __future__ import annotations

import torch
from solo.utils.misc import gather, get_rank
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def nnclr_loss_func(nn: Tensor, p: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the loss of ``[N, d]`` neighbours; row i of ``p`` is the positive of ``nn[i]``."""
    logits = normalize(nn, dim=1) @ gather(normalize(p, dim=1)).T / temperature
    own = torch.arange(len(nn), device=nn.device) + get_rank() * len(nn)
    return cross_entropy(logits, own)
