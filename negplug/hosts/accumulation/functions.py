"""Functions of autograd that put together what micro-batches have computed one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Linked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, *parameters: Tensor) -> Tensor:
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        return (None,) * len(ctx.needs_input_grad)


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *arguments: Tensor) -> Tensor:
        ctx.gradients = gradients
        ctx.types = [argument.dtype for argument in arguments]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        each = zip(ctx.gradients, ctx.types, strict=True)
        return upstream, None, *((g * upstream).to(dtype) for g, dtype in each)


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        gradients: list[Tensor | None],
        scale: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.gradients, ctx.scale = gradients, scale
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if ctx.gradients is None:
            raise RuntimeError(
                "accumulate: the gradient of a logical batch was asked for twice; call backward() "
                "once for each step"
            )
        gradients, ctx.gradients = ctx.gradients, None
        factor = upstream if ctx.scale is None else upstream / ctx.scale
        found = (None if g is None else g.mul_(factor.to(g.dtype)) for g in gradients)
        return None, None, None, *found


def linked(rows: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return rows whose graph names the parameters that they were computed with.

    No gradient flows there. But a loss of these rows is recognised as one that trains them.

    Args:
        rows: Without a graph.
        parameters: Of the model.
    """
    result: Tensor = _Linked.apply(rows, *parameters)
    return result


def replayed(value: Tensor, gradients: Sequence[Tensor], arguments: Sequence[Tensor]) -> Tensor:
    """Return a known value as a function of arguments for which its gradients are known.

    Args:
        value: ``[]``; gets the gradient of what is returned.
        gradients: Of each argument, in its shape.
        arguments: Any tensors.
    """
    result: Tensor = _Replayed.apply(value, gradients, *arguments)
    return result


def known(
    value: Tensor,
    gradients: list[Tensor | None],
    parameters: Sequence[Tensor],
    scale: Tensor | None,
) -> Tensor:
    """Return a known value as a function of parameters, for one backward pass.

    Args:
        value: ``[]``.
        gradients: Of each parameter; taken over, and changed.
        parameters: The leaves that get the gradients.
        scale: The factor that the gradients have already.
    """
    result: Tensor = _Known.apply(value, gradients, scale, *parameters)
    return result
