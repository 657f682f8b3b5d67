"""ReSSL's loss: a query's similarities to past keys are to be those of its key.

    t_ij ∝ e^{⟨k_i, n_j⟩/τ_k},    p_ij ∝ e^{⟨q_i, n_j⟩/τ_q},    L = −mean_i Σ_j t_ij log p_ij

Source: Zheng et al. 2021 (https://arxiv.org/abs/2107.09282), equations 4 to 6. The caller has
normalized all three.
"""

from __future__ import annotations

from torch import Tensor


def ressl_loss_func(
    q: Tensor, k: Tensor, queue: Tensor, temperature_q: float = 0.1, temperature_k: float = 0.04
) -> Tensor:
    """Return the loss of ``[N, d]`` queries and keys.

    Args:
        q: Anchors.
        k: Row i is the teacher of query i; a teacher has no gradient.
        queue: ``[K, d]`` past keys.
        temperature_q: τ_q.
        temperature_k: τ_k.
    """
    teacher = (k @ queue.T / temperature_k).softmax(1).detach()
    student = (q @ queue.T / temperature_q).log_softmax(1)
    return -(teacher * student).sum(1).mean()
