"""SimCLR's loss, of samples or of classes: the positives' share of all similarities.

With ids y, unit rows z_i of this rank and z_j of all ranks, and s_ij = e^{⟨z_i, z_j⟩/τ},

    P_i = Σ_{j ≠ i, y_j = y_i} s_ij,    N_i = Σ_{y_j ≠ y_i} s_ij,    L = −mean_i log(P_i/(P_i+N_i)).

Sources: Chen et al. 2020 (https://arxiv.org/abs/2002.05709), equation 1, where each anchor has one
positive; with classes as ids Khosla et al. 2020 (https://arxiv.org/abs/2004.11362), equation 3, its
sum inside the logarithm. Like the host's, the exponentials have no maximum taken off, so that
e^{1/τ} is infinite in float32 below τ = 1/88.7, and the loss is NaN.
"""

from __future__ import annotations

import torch
from solo.utils.misc import gather, get_rank
from torch import Tensor
from torch.nn.functional import normalize


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the loss of this rank's crops.

    Args:
        z: ``[N, d]`` projections of all crops of this rank.
        indexes: ``[N]``, equal for crops of one sample or of one class.
        temperature: τ.
    """
    z = normalize(z, dim=1)
    similar = torch.exp(z @ gather(z).T / temperature)
    same = indexes[:, None] == gather(indexes)
    own = torch.arange(len(z), device=z.device)
    other = same.clone()
    other[own, own + get_rank() * len(z)] = False
    # Products and no masks: what is infinite becomes NaN even where it does not count.
    positive, negative = (similar * other).sum(1), (similar * ~same).sum(1)
    return -torch.log(positive / (positive + negative)).mean()
