"""Values that a device computes, without waiting for it.

A host that reads a value of a GPU waits until all that was asked before is done, and the GPU then
waits for the host. So nothing in a steady training step reads one:

- :func:`known` and :func:`places` give values where that costs nothing, on the CPU, and None
  elsewhere;
- :func:`free_to_read` says where shapes may depend on values;
- :func:`read` waits for a value, in a first step;
- :func:`later` fetches some, for a use after the backward pass;
- :func:`look` and :func:`check` look at a condition once the device has got there, in some later
  call.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from negplug.kernels.choice import stands_in_for_a_gpu


def free_to_read(device: torch.device) -> bool:
    """Return whether values can be read without waiting, so that a shape may depend on them.

    So they can on the CPU, unless it stands in for a GPU (see :mod:`negplug.kernels.choice`).
    """
    return device.type == "cpu" and not stands_in_for_a_gpu()


def capturing(device: torch.device) -> bool:
    """Return whether a CUDA graph takes up what is asked of a device, and nothing is computed."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def known(value: Tensor) -> Any:
    """Return the one value of a tensor that is free to read; None of another."""
    return value.item() if free_to_read(value.device) else None


def places(mask: Tensor) -> Tensor | None:
    """Return where a bool ``[n]`` that is free to read is True, int64 ascending; else None."""
    return torch.from_numpy(mask.numpy().nonzero()[0]) if free_to_read(mask.device) else None


def read(value: Tensor) -> Any:
    """Return the one value of a tensor, waiting for its device; None where no values exist."""
    if free_to_read(value.device):
        return known(value)
    return None if value.device.type == "meta" else value.item()


def later(values: Tensor) -> Callable[[], list[Any] | None]:
    """Return a function that gives the values ``[n]``, to be called long after they are computed.

    It waits for what the device was asked before, and for nothing since. None where no values are.
    """
    if values.device.type != "cuda":
        return lambda: None if values.device.type == "meta" else values.tolist()
    copy, arrived = _sent(values)

    def arrive() -> list[Any]:
        arrived.synchronize()
        return list(copy.tolist())

    return arrive


def _sent(values: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """Start to copy values of a CUDA device; return where to, and when they are there."""
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        # On the CPU, whatever torch.set_default_device() says.
        copy = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
        copy.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
    return copy, arrived


class _Late(NamedTuple):
    """A condition on its way to the host.

    Attributes:
        kind: What is looked at.
        number: How many of its kind came before.
        value: In the host's memory, once ``arrived`` is done.
        arrived: When the copy is there.
        met: Whether a value meets the condition.
        then: What is to be done if it is met.
    """

    kind: str
    number: int
    value: Tensor
    arrived: torch.cuda.Event
    met: Callable[[Any], bool]
    then: Callable[[], None]


_late: collections.deque[_Late] = collections.deque()
_looked: collections.Counter[str] = collections.Counter()


def check(
    kind: str,
    value: Tensor,
    error: Callable[[], Exception],
    failed: Callable[[Any], bool] = bool,
    wait: bool = False,
) -> None:
    """Raise ``error()`` if a value has failed, as soon as that can be known without waiting.

    At once on the CPU, and in the first check of a kind, where most mistakes show. On a CUDA device
    a later failure is raised by a later check, or by :func:`settle`.

    Args:
        kind: What is checked.
        value: ``[]``.
        error: Makes the error; may read the device.
        failed: Whether that is a failure, asked on the host; by default whether the value is true.
        wait: Whether to wait for the device though it is not the first of its kind.
    """
    if value.device.type == "cpu" and not _late:
        if failed(value.numpy().item()):
            raise error()
        return

    def raised() -> None:
        raise error()

    look(kind, value, raised, failed, wait=wait or not _looked[kind])


def look(
    kind: str,
    value: Tensor,
    then: Callable[[], None],
    met: Callable[[Any], bool] = bool,
    wait: bool = False,
) -> None:
    """Call ``then()`` if a value meets a condition, as soon as that can be known.

    At once on the CPU; of a CUDA device in a later look, or in :func:`settle`; never in a graph.

    Args:
        kind: What is looked at.
        value: ``[]``.
        then: Raises or warns; may read the device.
        met: The condition, asked on the host; by default whether the value is true.
        wait: Whether to wait for the device.
    """
    device = value.device.type
    if device == "meta" or capturing(value.device):
        return
    settle(wait=False)
    number = _looked[kind]
    _looked[kind] += 1
    if device == "cpu":
        if met(value.numpy().item()):
            then()
    elif device != "cuda" or wait:
        if met(read(value)):
            then()
    else:
        _late.append(_Late(kind, number, *_sent(value), met, then))


def settle(wait: bool = True) -> None:
    """Do what follows from the conditions that are met by now; the first error is raised.

    Args:
        wait: Whether to wait for all conditions; otherwise those count that the device has got to.
    """
    if _late and not wait and torch.cuda.is_current_stream_capturing():
        return  # a question to the device would end the capture; on the CPU a check may ask here
    while _late and (wait or _late[0].arrived.query()):  # type: ignore[no-untyped-call]
        late = _late.popleft()
        late.arrived.synchronize()
        if late.met(late.value.numpy().item()):
            ago = _looked[late.kind] - late.number - 1
            try:
                late.then()
            except Exception as error:
                _late.clear()
                found = f"{error} (found {ago} calls later, as nothing waits for the GPU)"
                raise type(error)(found) from None
