"""The loss of each anchor in Triton, for GPUs: a launch for a pass.

The backward pass takes a second launch where keys have a gradient and are not the anchors. Its sums
are in an order that is always the same.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.anchor_loss.closed import closed_losses
from negplug.kernels.anchor_loss.programs import gradients_of_rows, losses_of_anchors
from negplug.kernels.launching import launch
from negplug.kernels.sizes import cdiv, power_of_2

# Numbers in the rows of a program, in float64 forward; a row that is wider does not fit registers.
_NUMBERS_FORWARD, _NUMBERS_BACKWARD = 1024, 2048
_WIDEST = 4096
# Numbers in a slice of rows; the gradient of wider ones is made of several.
_SLICE = 256
# Anchors whose positives a program of keys looks at together.
_CHUNK = 1024
# Positives of an anchor up to which it is quick to look for it among those of each.
_FEW = 8


def fused_losses(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    negative: Tensor,
    temperature: float,
    form: str,
    apart: bool,
) -> Tensor:
    """Return the losses; see :func:`negplug.kernels.anchor_loss.anchor_losses`."""
    plain = all(x.dtype == torch.float32 for x in (anchors, keys, negative))
    if not plain or not 0 < anchors.shape[1] <= _WIDEST or not positives.shape[1]:
        return closed_losses(anchors, keys, positives, negative, temperature, form, apart)
    losses: Tensor = _Losses.apply(anchors, keys, positives, negative, temperature, form, apart)
    return losses


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        keys: Tensor,
        positives: Tensor,
        negative: Tensor,
        temperature: float,
        form: str,
        apart: bool,
    ) -> Tensor:
        ctx.own = keys is anchors
        ctx.sigmoid = form == "each" and not apart
        ctx.steepness = 1.0 / temperature
        anchors, positives = anchors.contiguous(), positives.contiguous()
        keys = anchors if ctx.own else keys.contiguous()
        number, width = anchors.shape
        loss = torch.empty_like(negative)
        kept = anchors.new_empty(4, number)
        pulls = anchors.new_empty(positives.shape)
        padded = power_of_2(width)
        rows = max(_NUMBERS_FORWARD // padded, 1)
        blocks = cdiv(number, rows)
        mutual = None
        if ctx.own and positives.shape[1] <= _FEW:
            mutual = anchors.new_empty(blocks, dtype=torch.uint8)
        launch(
            losses_of_anchors,
            (blocks,),
            anchors,
            keys,
            positives,
            negative.contiguous(),
            loss,
            kept,
            pulls,
            kept if mutual is None else mutual,
            number,
            width,
            positives.shape[1],
            ctx.steepness,
            FORM=form,
            APART=apart,
            MUTUAL=mutual is not None,
            BM=rows,
            BD=padded,
            num_warps=4,
        )
        ctx.save_for_backward(anchors, keys, positives, kept, pulls, mutual)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Once: checkpointing computes them again for each time that they are asked for.
        saved = ctx.saved_tensors
        anchors, keys, *_ = saved
        of_anchors, of_keys, _, of_negative, *_ = ctx.needs_input_grad
        grad_negative = torch.empty_like(grad, memory_format=torch.contiguous_format)
        grad_anchors = grad_keys = None
        if of_anchors or of_negative:
            grad_anchors = torch.empty_like(anchors)
            _write(ctx, saved, grad, (grad_anchors, grad_negative), True, of_keys and ctx.own)
        if of_keys and not ctx.own:
            grad_keys = torch.empty_like(keys)
            _write(ctx, saved, grad, (grad_keys, grad_negative), False, True)
        return grad_anchors, grad_keys, None, grad_negative, None, None, None


def _write(
    ctx: Any,
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    grad: Tensor,
    written: tuple[Tensor, Tensor],
    pulled: bool,
    pulling: bool,
) -> None:
    """Write the gradient of anchors (``pulled``), of keys (``pulling``) or of both in one.

    Args:
        ctx: Of the forward pass.
        saved: Its tensors.
        grad: That of the losses.
        written: Where to: that of the rows, and, if they are anchors, that of ℓ⁻.
        pulled: Whether the rows are anchors.
        pulling: Whether they are keys.
    """
    anchors, keys, positives, kept, pulls, mutual = saved
    out, out_negative = written
    rows, width = out.shape
    # A product of tiles takes 16 at the least.
    padded = min(max(power_of_2(width), 16), _SLICE)
    side = min(max(_NUMBERS_BACKWARD // padded, 16), 32)
    launch(
        gradients_of_rows,
        (cdiv(rows, side), cdiv(width, padded)),
        anchors,
        keys,
        positives,
        kept,
        pulls,
        kept if mutual is None else mutual,
        grad,
        out,
        out_negative,
        rows,
        len(anchors),
        width,
        positives.shape[1],
        grad.stride(0),
        0 if mutual is None else len(mutual),
        ctx.steepness,
        SIGMOID=ctx.sigmoid,
        PULLED=pulled,
        PULLING=pulling,
        MUTUAL=pulled and pulling and mutual is not None,
        BM=side,
        BN=side,
        CHUNK=_CHUNK,
        BD=padded,
        num_warps=4,
    )
