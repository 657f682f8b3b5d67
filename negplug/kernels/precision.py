"""Types and modes of torch: the widest type of a device, autocast, memory in inference mode."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 where the device has no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def float32_products() -> str | None:
    """Return the precision of products of float32, as ``torch.get_float32_matmul_precision`` does.

    None where a backend's own ``fp32_precision`` was set, of which that knows nothing.
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def not_inference() -> contextlib.AbstractContextManager[None]:
    """Compute without gradient, and without inference mode also inside of it.

    What is allocated in inference mode cannot be written to later, outside of it.
    """
    return _outside_inference() if torch.is_inference_mode_enabled() else torch.no_grad()


@contextlib.contextmanager
def _outside_inference() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


_taken_off: contextvars.ContextVar[bool] = contextvars.ContextVar("taken_off", default=False)


def autocast_is_on(device: torch.device) -> bool:
    """Return whether autocast is on; not every device has it, the meta device does not."""
    kind = device.type
    if torch.compiler.is_compiling():  # the compiler of torch 2.6 cannot ask whether there is one
        return kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context without autocast, in which :func:`under_autocast` tells if it was on."""
    return _taking_off(device) if autocast_is_on(device) else contextlib.nullcontext()


@contextlib.contextmanager
def _taking_off(device: torch.device) -> Iterator[None]:
    before = _taken_off.set(True)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _taken_off.reset(before)


def under_autocast() -> bool:
    """Return whether autocast was on before :func:`without_autocast` took it off.

    A kernel may then multiply in half precision, if it adds in single precision.
    """
    return _taken_off.get()


def as_under_present_autocast(
    function: Callable[Arguments, Result], device: torch.device
) -> Callable[Arguments, Result]:
    """Return a function that computes as it would here, wherever it is called.

    Args:
        function: Any function.
        device: Whose autocast counts.
    """
    kind = device.type
    here = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.autocast(kind, enabled=here[0], dtype=here[1]):
            return function(*args, **kwargs)

    return call
