"""Independent draws from the softmax over a pool, with replacement.

    Z_im = argmax_{j: id_j ≠ id_i} s_ij/τ + log w_ij + G_ijm,    G_ijm ~ Gumbel(0, 1).

The maximum of Gumbel variables is one again (max-stability): over the columns j of a tile T,

    max_{j ∈ T} s_ij/τ + log w_ij + G_j = ℓ_T + G,   ℓ_T = log Σ_{j ∈ T} w_ij exp(s_ij/τ),

and which j attains it is independent of the value. So each tile needs one Gumbel per draw, and
where it beats the tiles before it a column from its own softmax, by inversion of the distribution
function: the first column up to which the shares w_ij exp(s_ij/τ) add up to more than u times their
sum. Hash (T·N + i)·M + m of a stream (:mod:`negplug.kernels.random`) is the two uniform numbers of
tile T, anchor i and draw m. So the draws are the same on every device, but for the rounding of
logits.

Kernels: :mod:`negplug.kernels.softmax_draws.fused`, in Triton, on a GPU;
:mod:`negplug.kernels.softmax_draws.tiled`, in torch operations, on any device.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, triton_refusal
from negplug.kernels.softmax_draws.tiled import draws_of_logits, tiled_draws

__all__ = ["SOFTMAX_DRAWS", "draws_of_logits", "softmax_draws"]


SOFTMAX_DRAWS: Operation[None] = Operation(
    "draws from the softmax over a pool",
    None,
    (
        Kernel("triton", lazily("softmax_draws.fused", "fused_draws"), triton_refusal),
        Kernel("torch", lambda: tiled_draws),
    ),
)


def softmax_draws(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    count: int,
    seed: int | Tensor,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw from the softmax over each anchor's negatives in a pool.

    Args:
        anchors: ``[N, d]`` rows of unit length, float32 or float64.
        pool: ``[K, d]``, likewise, K ≥ 1.
        anchor_ids: ``[N]`` int64. -1 is unknown, and such an anchor excludes no row.
        pool_ids: ``[K]`` int64.
        temperature: τ > 0.
        count: M ≥ 1.
        seed: A signed 64-bit integer; or an int64 ``[]`` on the device.
        log_weight: log w, ``[N|1, K|1]``.
        mask: ``[N, K]`` bool, True where a row of the pool may serve.

    Returns:
        Columns ``[N, M]`` int64; and the maxima that they attain, ``[N, M]`` in float64 where the
        device has it, -inf where there is nothing to draw from (the column is 0 there).
    """
    kernel = SOFTMAX_DRAWS.kernel(anchors.device, None)
    drawn: tuple[Tensor, Tensor] = kernel(
        anchors.detach(),
        pool.detach(),
        anchor_ids,
        pool_ids,
        temperature,
        count,
        seed,
        log_weight,
        mask,
    )
    return drawn
