"""Which kernel computes an operation: what was asked, what this machine has, what the user wants.

An operation has kernels, the most wanted first. The first that can serve the device and suits the
question (its sizes, say) computes it. A new kernel is a file and a line in its operation's table.

Environment:
    NEGPLUG_BACKEND: forces the kernels of one backend wherever it has any: ``numba`` (loops
        compiled for the CPU, with ``negplug[fast]``), ``triton`` (programs for a GPU, which come
        with torch there), ``numpy`` (a few numbers on the CPU), ``torch`` (torch operations, on any
        device), or ``reference`` (the equations, plainly, in torch and autograd; for comparison).
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast, get_args

import torch

Backend = Literal["numba", "triton", "numpy", "torch", "reference"]
_VARIABLE = "NEGPLUG_BACKEND"

# Triton looks too when its programs are defined, and never again.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

Question = TypeVar("Question")


def _no_refusal(_: torch.device) -> str | None:
    return None


def _suits(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Kernel(Generic[Question]):
    """One way to compute an operation.

    Attributes:
        backend: What it is made of.
        load: Imports and returns the function.
        refusal: Why it cannot serve a device here; None if it can.
        suits: Whether it is the one to take for a question that it can serve.
    """

    backend: Backend
    load: Callable[[], Callable[..., Any]]
    refusal: Callable[[torch.device], str | None] = _no_refusal
    suits: Callable[[Question], bool] = _suits

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The function, imported when it is asked for first."""
        return self.load()


def lazily(module: str, name: str) -> Callable[[], Callable[..., Any]]:
    """Return what loads a kernel whose module imports what is not installed everywhere.

    Args:
        module: Below ``negplug.kernels``, such as ``"chain.fused"``.
        name: Of the function there.
    """

    def load() -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(
            importlib.import_module(f"negplug.kernels.{module}"), name
        )
        return function

    return load


@dataclass(frozen=True, eq=False)
class Operation(Generic[Question]):
    """What has several kernels.

    Attributes:
        name: For messages and tables.
        typical: A question, for tables.
        kernels: Those that are wanted most first. The last of a backend suits every question.
    """

    name: str
    typical: Question
    kernels: tuple[Kernel[Question], ...]

    def kernel(self, device: torch.device, question: Question) -> Callable[..., Any]:
        """Return the function that computes the answer.

        Raises:
            ValueError: If NEGPLUG_BACKEND names no backend, or one that cannot serve here.
        """
        return self._choose(device, question).function

    def backend(self, device: torch.device, question: Question) -> Backend:
        """Return which backend computes the answer; raises as :meth:`kernel` does."""
        return self._choose(device, question).backend

    def _choose(self, device: torch.device, question: Question) -> Kernel[Question]:
        kernels = able(self, forced_backend(), device)
        for kernel in kernels:
            if kernel.suits(question):
                return kernel
        # A forced backend answers even a question that it does not suit.
        return kernels[-1]


@functools.cache
def able(
    operation: Operation[Any], forced: Backend | None, device: torch.device
) -> tuple[Kernel[Any], ...]:
    """Return the kernels that can serve a device, those that are wanted most first.

    Raises:
        ValueError: As :meth:`Operation.kernel`.
    """
    wanted: Sequence[Kernel[Any]] = operation.kernels
    if forced is not None:
        wanted = [kernel for kernel in wanted if kernel.backend == forced] or wanted
    found = tuple(kernel for kernel in wanted if kernel.refusal(device) is None)
    if not found:
        raise ValueError(
            f"{_VARIABLE} is {forced!r}, which cannot compute {operation.name} here: "
            f"{wanted[0].refusal(device)}; set it to 'torch' or unset it"
        )
    return found


def forced_backend() -> Backend | None:
    """Return the backend that NEGPLUG_BACKEND forces, None if it is not set.

    Raises:
        ValueError: If there is no such backend.
    """
    forced = os.environ.get(_VARIABLE) or None
    if forced is not None and forced not in get_args(Backend):
        raise ValueError(f"{_VARIABLE} must be one of {get_args(Backend)}, got {forced!r}")
    return cast("Backend | None", forced)


def stands_in_for_a_gpu() -> bool:
    """Return whether the CPU runs Triton's programs, under its interpreter."""
    return _INTERPRETED and forced_backend() == "triton"


def numba_refusal(device: torch.device) -> str | None:
    """Return why compiled loops cannot serve a device here; None if they can."""
    if device.type != "cpu":
        return _cpu_only(device)
    failure = _import_failure("numba")
    return failure and f"numba cannot be imported ({failure}), which negplug[fast] installs"


def numpy_refusal(device: torch.device) -> str | None:
    """Return why numpy cannot serve a device; None if it can."""
    return None if device.type == "cpu" else _cpu_only(device)


def triton_refusal(device: torch.device) -> str | None:
    """Return why Triton's programs cannot serve a device here; None if they can."""
    if device.type == "cpu":
        if not stands_in_for_a_gpu():
            return "it serves GPUs (the CPU only if forced, under TRITON_INTERPRET=1)"
    elif device.type != "cuda":
        return f"it serves CUDA and ROCm devices, and the tensors are on {device.type!r}"
    failure = _import_failure("triton")
    if failure:
        return f"Triton cannot be imported ({failure}); torch's builds for GPUs bring it"
    return _launch_failure(device) if device.type == "cuda" else None


@functools.cache
def _launch_failure(device: torch.device) -> str | None:
    """Return why Triton serves a card badly or not at all; None if it serves it well.

    Where that costs time, a warning says so.
    """
    from negplug.kernels.probing import probe

    try:
        probe(device)
    except torch.OutOfMemoryError:
        raise  # says nothing of Triton, and may not happen again
    # From a missing compiler to a card that is too old.
    except Exception as error:
        lines = f"{type(error).__name__}: {error}".strip().splitlines()
        failure = (
            f"Triton launches nothing on {str(device)!r} ({lines[0][:200]}); it needs a C "
            f"compiler, which CC may name, and Python's headers"
        )
        if forced_backend() != "triton":
            warnings.warn(f"{failure}. Torch operations compute instead, more slowly", stacklevel=2)
        return failure
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return (
            f"Triton multiplies without tensor cores on {str(device)!r}, a card before NVIDIA's "
            f"Ampere, and torch with them"
        )
    return None


def _cpu_only(device: torch.device) -> str:
    return f"it serves the CPU only, and the tensors are on {device.type!r}"


@functools.cache
def _import_failure(name: str) -> str | None:
    try:
        importlib.import_module(name)
    # Beside an unsuitable numpy numba's import raises more than ImportError.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
