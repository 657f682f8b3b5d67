"""The loss of each anchor, from its positives and from what its negatives add up to.

With s_p = ⟨a_i, k_{c(i,p)}⟩/τ of anchor i's n positives, T = log Σ_p e^{s_p}, ℓ⁻ of its negatives,
σ the logistic function and softplus(x) = log(1 + e^x):

==================  ===================================  ============  ==========================
form                loss L                               ∂L/∂ℓ⁻        ∂L/∂s_p
==================  ===================================  ============  ==========================
``"each"``          mean over p of softplus(ℓ⁻ − s_p)    mean of σ     −σ(ℓ⁻ − s_p)/n
``"sum"``           softplus(ℓ⁻ − T)                     σ(ℓ⁻ − T)     −σ(ℓ⁻ − T) e^{s_p − T}
``"mean"``          softplus(ℓ⁻ − T) + T − mean of s_p   σ(ℓ⁻ − T)     σ(T − ℓ⁻) e^{s_p − T} − 1/n
``"sum"``, apart    ℓ⁻ − T                               1             −e^{s_p − T}
others, apart       ℓ⁻ − mean of s_p                     1             −1/n
==================  ===================================  ============  ==========================

*Apart*: the positives are in no denominator. All forms agree for one positive. An anchor without a
positive, or without a negative (ℓ⁻ = -inf), has loss and gradient zero.

- :mod:`negplug.kernels.anchor_loss.fused`, a launch for each pass, in Triton;
- :mod:`negplug.kernels.anchor_loss.compiled`, loops for few anchors of one positive on the CPU, in
  numba;
- :mod:`negplug.kernels.anchor_loss.closed`, the table in torch operations, on any device;
- :mod:`negplug.kernels.anchor_loss.reference`, the second column of the table, by autograd.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from negplug.kernels.anchor_loss.closed import closed_losses
from negplug.kernels.anchor_loss.reference import plain_losses
from negplug.kernels.choice import Kernel, Operation, lazily, numba_refusal, triton_refusal

__all__ = ["ANCHOR_LOSS", "anchor_losses"]


# Numbers of all anchors; beyond, operations of torch cost less.
_FEW = 2**15


class Sizes(NamedTuple):
    """N anchors of d numbers, and P positives of each."""

    anchors: int
    width: int
    positives: int


def _for_loops(sizes: Sizes) -> bool:
    return sizes.positives == 1 and sizes.anchors * sizes.width <= _FEW


ANCHOR_LOSS: Operation[Sizes] = Operation(
    "loss of each anchor",
    Sizes(512, 128, 1),
    (
        Kernel("triton", lazily("anchor_loss.fused", "fused_losses"), triton_refusal),
        Kernel(
            "numba", lazily("anchor_loss.compiled", "compiled_losses"), numba_refusal, _for_loops
        ),
        Kernel("torch", lambda: closed_losses),
        Kernel("reference", lambda: plain_losses),
    ),
)


def anchor_losses(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    negative: Tensor,
    temperature: float,
    form: Literal["sum", "each", "mean"],
    apart: bool = False,
) -> Tensor:
    """Return the loss of each anchor, ``[N]``, differentiable in anchors, keys and ℓ⁻.

    Args:
        anchors: ``[N, d]``, float32 or float64.
        keys: ``[K, d]``, likewise; may be the very tensor of the anchors.
        positives: ``[N, P]`` int64, columns of the keys, padded with -1.
        negative: ℓ⁻, ``[N]``; -inf without negatives.
        temperature: τ > 0.
        form: How several positives combine.
        apart: Whether the positives are in no denominator.
    """
    if positives.shape[1] == 1:
        form = "each"  # of one positive, the form with the least arithmetic
    sizes = Sizes(len(anchors), anchors.shape[1], positives.shape[1])
    kernel = ANCHOR_LOSS.kernel(anchors.device, sizes)
    losses: Tensor = kernel(anchors, keys, positives, negative, temperature, form, apart)
    return losses
