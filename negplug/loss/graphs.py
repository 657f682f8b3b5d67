"""Loss calls in graphs: compiled by ``torch.compile``, or captured in a CUDA graph and replayed.

The bookkeeping of steps (:mod:`negplug.loss.steps`) is Python, which no graph repeats. A call in a
graph that trains is a step of its own instead. Which one it is, is counted on the device, in a
buffer of the loss that the graph itself advances, so that each replay draws anew; its draws are
those of the same step outside of a graph.

To ``torch.compile`` a loss is one operation, ``negplug::contrastive_loss``, whatever the sampler,
the objective and the kernels. It returns the loss and the gradient of the unit rows, as fused
cross-entropies do; a second operation takes that to the views. A CUDA graph captures the kernels.

What remembers a step in Python once its backward pass is over can be part of no graph.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import Encoder
from negplug.contract.inputs import check_views
from negplug.kernels.precision import autocast_is_on
from negplug.kernels.torch_private import break_graph, recording
from negplug.kernels.unit import unit_rows
from negplug.loss.graph_steps import GraphSteps, check_device


class _Loss(Protocol):
    """A ``ContrastiveLoss``."""

    graphs: GraphSteps

    def _contrast(self, batch: ContrastiveBatch, *, done: Tensor | None = None) -> Tensor: ...


_losses: weakref.WeakValueDictionary[int, _Loss] = weakref.WeakValueDictionary()


def register(loss_fn: _Loss) -> None:
    """Make a loss known to the operation, which is given its ``id``."""
    _losses[id(loss_fn)] = loss_fn


def compiles(loss_fn: _Loss, encode: Encoder | None) -> bool:
    """Return whether a call is traced; if not, the graph breaks here, with the reason."""
    refusal = loss_fn.graphs.refusal or ("encode= can be part of no graph" if encode else "")
    if refusal:
        break_graph(refusal)
    return not refusal


def compiled(
    loss_fn: _Loss,
    views: Sequence[Tensor],
    indexes: Tensor | None,
    labels: Tensor | None,
) -> Tensor:
    """Return the loss of views, as ``torch.compile`` traces it."""
    trains = torch.is_grad_enabled() and any(view.requires_grad for view in views)
    device = views[0].device
    steps = loss_fn.graphs
    loss: Tensor = torch.ops.negplug.contrastive_loss(
        list(views), steps.done, indexes, labels, id(loss_fn), trains, autocast_is_on(device)
    )[0]
    if trains:
        steps.advance()
    return loss


@torch.library.custom_op(
    "negplug::contrastive_loss",
    mutates_args=(),
    schema="(Tensor[] views, Tensor done, Tensor? indexes, Tensor? labels, int loss_fn, "
    "bool trains, bool autocast) -> (Tensor, Tensor)",
)
def _loss(
    views: list[Tensor],
    done: Tensor,
    indexes: Tensor | None,
    labels: Tensor | None,
    loss_fn: int,
    trains: bool,
    autocast: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss and, if it trains, the gradient of the unit rows ``[V·B, d]``."""
    if trains:
        _losses[loss_fn].graphs.computes()
    casts = torch.autocast(views[0].device.type) if autocast else contextlib.nullcontext()
    with recording(), _in_this_thread(), torch.set_grad_enabled(trains):
        leaves = tuple(view.detach().requires_grad_(trains) for view in views)
        with casts:
            batch = ContrastiveBatch.from_views(leaves, indexes, labels)
            loss = _losses[loss_fn]._contrast(batch, done=done)
        rows = batch.anchors.embeddings
        grad = torch.autograd.grad(loss, [rows])[0] if trains else rows.new_empty(0, 0)
    return loss.detach(), grad.contiguous()


@torch.library.custom_op(
    "negplug::contrastive_loss_backward",
    mutates_args=(),
    schema="(Tensor[] views, Tensor grad) -> Tensor[]",
)
def _to_views(views: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Return the gradient of each view, from that of the unit rows."""
    with recording(), _in_this_thread():
        leaves = [view.detach().requires_grad_() for view in views]
        grads = torch.autograd.grad(unit_rows(*leaves), leaves, grad)
    # What an operation returns shares no memory.
    apart = len({each.untyped_storage().data_ptr() for each in grads}) == len(grads)
    return [each.contiguous() if apart else each.clone() for each in grads]


@_loss.register_fake
def _(views: list[Tensor], done: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    check_views(tuple(views))
    check_device(done, views[0].device)
    dtype = functools.reduce(torch.promote_types, (view.dtype for view in views), torch.float32)
    rows, trains = sum(len(view) for view in views), others[-2]
    shape = (rows, views[0].shape[1]) if trains else (0, 0)
    return views[0].new_empty((), dtype=dtype), views[0].new_empty(shape, dtype=dtype)


@_to_views.register_fake
def _(views: list[Tensor], grad: Tensor) -> list[Tensor]:
    return [torch.empty_like(view, memory_format=torch.contiguous_format) for view in views]


def _in_this_thread() -> contextlib.AbstractContextManager[None]:
    """Compute gradients in the thread that asks for them.

    Inductor's CUDA graphs (``mode="reduce-overhead"``) give memory of their own to one thread, and
    autograd computes for a GPU in another.
    """
    return torch.autograd.set_multithreading_enabled(False)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[0])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    of_rows, *views = ctx.saved_tensors
    of_views = torch.ops.negplug.contrastive_loss_backward(views, of_rows * grad)
    return of_views, None, None, None, None, None, None


_loss.register_autograd(_backward, setup_context=_keep)
