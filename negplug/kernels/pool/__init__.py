"""Log-sum-exp over a whole pool.

    ℓ_i = log Σ_{j: id_j ≠ id_i} w_ij exp(⟨a_i, k_j⟩/τ)

- :mod:`negplug.kernels.pool.symmetric`, where the pool is the anchors themselves;
- :mod:`negplug.kernels.pool.frozen`, where the pool needs no gradient;
- :mod:`negplug.kernels.pool.tiled`, for any pool;
- :mod:`negplug.kernels.pool.fused`, for any pool on a GPU, in Triton;
- :mod:`negplug.kernels.pool.reference`, autograd through ``[N, K]``.

:mod:`negplug.kernels.pool.rows` sums logits that are there.

But for the reference, nothing materialises ``[N, K]``: each streams tiles, all but the fused one in
torch operations, on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, triton_refusal
from negplug.kernels.pool.frozen import frozen_logsumexp
from negplug.kernels.pool.reference import full_logsumexp
from negplug.kernels.pool.rows import row_logsumexp
from negplug.kernels.pool.symmetric import STEEPEST, symmetric_logsumexp
from negplug.kernels.pool.tiled import tiled_logsumexp

__all__ = ["POOL", "pool_logsumexp", "row_logsumexp"]


class Form(NamedTuple):
    """What may make a pool's log-sum-exp quicker.

    Attributes:
        symmetric: The pool is the anchors, all of equal weight.
        steep: 1/τ is above :data:`negplug.kernels.pool.symmetric.STEEPEST`.
        frozen: The pool needs no gradient.
    """

    symmetric: bool
    steep: bool
    frozen: bool


def _of_the_anchors(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a kernel for a symmetric batch the arguments of the others."""

    def logsumexp(
        anchors: Tensor, _: Tensor, ids: Tensor, __: Tensor, temperature: float, *unweighted: None
    ) -> Tensor:
        return kernel(anchors, ids, temperature)

    return logsumexp


def _fused_symmetric() -> Callable[..., Tensor]:
    from negplug.kernels.pool.fused import fused_symmetric

    return _of_the_anchors(fused_symmetric)


POOL: Operation[Form] = Operation(
    "log-sum-exp over a pool",
    Form(symmetric=False, steep=False, frozen=True),
    (
        Kernel("triton", _fused_symmetric, triton_refusal, lambda form: form.symmetric),
        Kernel("triton", lazily("pool.fused", "fused_logsumexp"), triton_refusal),
        Kernel(
            "torch",
            lambda: _of_the_anchors(symmetric_logsumexp),
            suits=lambda form: form.symmetric and not form.steep,
        ),
        Kernel("torch", lambda: frozen_logsumexp, suits=lambda form: form.frozen),
        Kernel("torch", lambda: tiled_logsumexp),
        Kernel("reference", lambda: full_logsumexp),
    ),
)


def pool_logsumexp(
    anchors: Tensor,
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    temperature: float,
    log_weight: Tensor | None = None,
    mask: Tensor | None = None,
    own: bool = False,
) -> Tensor:
    """Return ℓ ``[N]``; -inf (and no gradient) for an anchor without negatives.

    Args:
        anchors: ``[N, d]``, float32 or float64.
        pool: ``[K, d]``, likewise; gets a gradient if it requires one.
        anchor_ids: ``[N]`` int64, comparable with ``==`` (an unknown anchor is not -1).
        pool_ids: ``[K]`` int64.
        temperature: τ > 0.
        log_weight: Detached, ``[N|1, K]``.
        mask: ``[N, K]`` bool, True where a row of the pool may serve.
        own: The pool is the anchors, and its ids are theirs.
    """
    symmetric = own and log_weight is None and mask is None
    form = Form(symmetric, 1.0 / temperature > STEEPEST, not pool.requires_grad)
    kernel = POOL.kernel(anchors.device, form)
    total: Tensor = kernel(anchors, pool, anchor_ids, pool_ids, temperature, log_weight, mask)
    return total
