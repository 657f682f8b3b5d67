"""Values that a device computes, without waiting for it.

A host that reads a value of a GPU waits until all that was asked before is done, and the GPU then
waits for the host. So nothing in a steady training step reads one:

- :func:`known` gives a value where it costs nothing, on the CPU, and None elsewhere;
- :func:`free_to_read` says where shapes may depend on values;
- :func:`check` looks at a condition once the device has got there, in some later call.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.kernels.choice import forced_backend


def free_to_read(device: torch.device) -> bool:
    """Return whether values can be read without waiting, so that a shape may depend on them.

    So they can on the CPU, unless it stands in for a GPU (see :mod:`negplug.kernels.choice`).
    """
    return device.type == "cpu" and forced_backend() != "triton"


def known(value: Tensor) -> Any:
    """Return the one value of a tensor that is free to read; None for others."""
    return value.detach().numpy().item() if free_to_read(value.device) else None


class _Late(NamedTuple):
    """A condition on its way to the host.

    Attributes:
        kind: What is checked.
        number: How many of its kind came before.
        failed: In the host's memory, once ``arrived`` is done.
        arrived: When the copy is there.
        error: Makes the error.
    """

    kind: str
    number: int
    failed: Tensor
    arrived: torch.cuda.Event
    error: Callable[[], Exception]


_late: collections.deque[_Late] = collections.deque()
_checked: collections.Counter[str] = collections.Counter()


def check(kind: str, failed: Tensor, error: Callable[[], Exception]) -> None:
    """Raise ``error()`` if ``failed`` is true, as soon as that can be known without waiting.

    At once on the CPU, and in the first check of a kind, where most mistakes show. On a CUDA device
    a later failure is raised by a later check, or by :func:`settle`.

    Args:
        kind: What is checked.
        failed: A bool ``[]``.
        error: Makes the error; may read the device.
    """
    settle(wait=False)
    device = failed.device.type
    if device == "meta" or (device == "cuda" and torch.cuda.is_current_stream_capturing()):
        return
    number = _checked[kind]
    _checked[kind] += 1
    if device == "cpu":
        if known(failed):
            raise error()
    elif device != "cuda" or not number:
        if bool(failed):
            raise error()
    else:
        with torch.cuda.device_of(failed):  # type: ignore[no-untyped-call]
            copy = torch.empty((), dtype=torch.bool, pin_memory=True)
            copy.copy_(failed, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        _late.append(_Late(kind, number, copy, arrived, error))


def settle(wait: bool = True) -> None:
    """Raise the error of the first check that has failed by now.

    Args:
        wait: Whether to wait for all checks; otherwise those count that the device has got to.
    """
    while _late and (wait or _late[0].arrived.query()):  # type: ignore[no-untyped-call]
        late = _late.popleft()
        late.arrived.synchronize()
        if late.failed.numpy():
            ago = _checked[late.kind] - late.number - 1
            error = late.error()
            _late.clear()
            raise type(error)(f"{error} (found {ago} calls later, as nothing waits for the GPU)")
