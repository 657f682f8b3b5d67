"""Gathering rows over ranks, with gradient.

Under DDP each rank computes the loss of its own rows against everybody's keys (the *local loss*:
no rank computes another's rows). The gradient of a gathered row is the sum over the ranks that
used it: the backward pass all-reduces, and DDP's averaging makes it the gradient of the global
mean. No further factor belongs there.

The backward pass is a collective too, so no rank may leave it out. Each gathering returns a
``token``, a zero that depends on it: a loss with the token added takes part whatever it uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from negplug.kernels.announcing import Purpose, announce, announce_gradient
from negplug.kernels.errors import RanksError
from negplug.kernels.meeting import Topic, meet_anew
from negplug.kernels.torch_private import sequence_number

_alone = False


def rank() -> int:
    """Return this process's rank, 0 without a process group."""
    return dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if _grouped() else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Act as without a process group: what one rank does inside, the others need not."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def collectives() -> int:
    """Return a number that rises with every collective of the default process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0
    return sequence_number(dist.group.WORLD)


def _grouped() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


def total(count: Tensor, announces: bool) -> Tensor:
    """Return the sum over ranks of an integer ``[]``.

    Args:
        count: This rank's.
        announces: Whether a rank may say in its place that it has failed, which reads the device.
    """
    if announces:
        everyones = announce(Purpose.COUNT, count.device, [int(count)])
        return torch.tensor(sum(number for number, *_ in everyones), device=count.device)
    count = count.clone()
    dist.all_reduce(count)
    return count


def everyones(state: Any, topic: Topic | None = None) -> list[Any]:
    """Return every rank's ``state``, in rank order.

    Args:
        state: This rank's, an object of tensors and built-in types.
        topic: What the ranks meet for first, where some rank may not come.

    Raises:
        RanksError: If a rank does not come, see :func:`negplug.kernels.meeting.meet_anew`.
    """
    states: list[Any] = [None] * world_size()
    if world_size() == 1:
        return [state]
    if topic is not None:
        meet_anew(topic)
    dist.all_gather_object(states, state)
    return states


class Gathered(NamedTuple):
    """Every rank's rows, in rank order.

    Attributes:
        rows: ``[Σ n, d]``. Gradient flows back to every rank.
        names: ``[c, Σ n]`` int64, what was gathered beside the rows.
        first: Number of the first row that is this rank's.
        token: Scalar zero; add it to the loss.
    """

    rows: Tensor
    names: Tensor
    first: int
    token: Tensor


def gather_rows(rows: Tensor, names: Tensor) -> Gathered:
    """Gather rows and what goes with them from every rank, in one exchange after the sizes'.

    Args:
        rows: ``[n, d]`` float32 or float64; n may differ between ranks.
        names: ``[c, n]`` int64.

    Raises:
        RanksError: If the width or type of the rows differs between ranks, if only some of them
            carry gradient, or if a rank has failed; on every rank, so that none is left waiting.
    """
    sizes = agree_on_rows(Purpose.ROWS, rows, len(names))
    gathered, packed_names, token = _GatherRows.apply(rows, names, sizes)
    return Gathered(gathered, packed_names, sum(sizes[: rank()]), token)


def agree_on_rows(purpose: Purpose, rows: Tensor, named: int) -> tuple[int, ...]:
    """Return the number of every rank's rows, once all ranks are about to exchange such rows.

    Args:
        purpose: How they are exchanged.
        rows: This rank's, ``[n, d]``.
        named: How many integers go with each.

    Raises:
        RanksError: As :func:`gather_rows`.
    """
    # The backward pass is a collective too.
    learns = torch.is_grad_enabled() and rows.requires_grad
    own = (*rows.shape, rows.element_size(), named, learns)
    everyones = announce(purpose, rows.device, own)
    sizes, widths, bytes_each, names, gradients = zip(*everyones, strict=True)
    if len(set(zip(widths, bytes_each, names, strict=True))) > 1:
        raise RanksError(
            f"the ranks have embeddings of widths {list(widths)} with {list(bytes_each)} bytes per "
            f"number; gathering needs the same on all"
        )
    if len(set(gradients)) > 1:
        lacking = [number for number, gradient in enumerate(gradients) if not gradient]
        raise RanksError(
            f"the embeddings carry gradient on some ranks only, not on {lacking}; let the model "
            f"compute them with gradient on all ranks or on none"
        )
    return sizes


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, names: Tensor, sizes: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.sizes = sizes
        # One message: the integers travel as bits beside the floats, rows are padded to the most.
        bits = names.T.contiguous().view(rows.dtype)
        packed = torch.cat([rows, bits], dim=1)
        if len(rows) < max(sizes):
            padding = packed.new_zeros(max(sizes) - len(rows), packed.shape[1])
            packed = torch.cat([packed, padding])
        parts = [torch.empty_like(packed) for _ in sizes]
        dist.all_gather(parts, packed)
        together = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        gathered, bits = torch.split(together, [rows.shape[1], bits.shape[1]], dim=1)
        everyones = bits.contiguous().view(torch.int64).T.contiguous()
        ctx.mark_non_differentiable(everyones)
        return gathered.contiguous(), everyones, rows.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        announce_gradient(grad.device)
        summed = grad.contiguous().clone()
        dist.all_reduce(summed)
        return torch.split(summed, ctx.sizes)[rank()], None, None
