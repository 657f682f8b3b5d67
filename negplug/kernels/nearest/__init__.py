"""The M nearest of a pool: for each anchor i the M of {j: id_j ≠ id_i} with the largest ⟨a_i, k_j⟩.

Of equal similarities that of the smaller column comes first, on every device. (Similarities are
rounded, as each device sums them.)

- :mod:`negplug.kernels.nearest.fused`, for any pool on a GPU, in Triton;
- :mod:`negplug.kernels.nearest.tiled`, on any device;
- :mod:`negplug.kernels.nearest.reference`, a sort of ``[N, K]``.

But for the reference, nothing materialises ``[N, K]``.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, triton_refusal
from negplug.kernels.nearest.reference import sorted_columns
from negplug.kernels.nearest.tiled import largest, tiled_columns, which_are_there

__all__ = ["NEAREST", "largest", "nearest_columns", "which_are_there"]


NEAREST: Operation[None] = Operation(
    "the nearest of a pool",
    None,
    (
        Kernel("triton", lazily("nearest.fused", "fused_columns"), triton_refusal),
        Kernel("torch", lambda: tiled_columns),
        Kernel("reference", lambda: sorted_columns),
    ),
)


def nearest_columns(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return each anchor's nearest columns, nearest first, and which of them there are.

    Args:
        anchors: ``[N, d]`` rows of unit length, float32 or float64.
        pool: ``[K, d]``, likewise.
        anchor_ids: ``[N]`` int64. -1 is unknown, and such an anchor excludes no row.
        pool_ids: ``[K]`` int64.
        count: M, from 1 to K.
        mask: ``[N, K]`` bool, True where a row of the pool may serve.

    Returns:
        Columns ``[N, M]`` int64, and a mask ``[N, M]``, False where an anchor has fewer than M;
        the column is 0 there. No mask where it is known that every anchor has M.
    """
    kernel = NEAREST.kernel(anchors.device, None)
    found: tuple[Tensor, Tensor | None] = kernel(
        anchors.detach(), pool.detach(), anchor_ids, pool_ids, count, mask
    )
    return found
