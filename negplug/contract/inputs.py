"""Checks of what a host or a user hands over, each with one clear sentence."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.contract.labels import as_labels, whole_numbers
from negplug.contract.local import check_local
from negplug.kernels import late
from negplug.kernels.torch_private import is_transformed
from negplug.kernels.unit import unit_rows

LARGEST = 1e30
"""Of a number that is asked for: products of a few such stay finite in float32."""


def check_views(views: tuple[Tensor, ...], names: Sequence[str] = ()) -> None:
    """Raise unless ``views`` are two or more floating tensors of one shape ``[B, d]``.

    Args:
        views: The tensors.
        names: What messages call them; z0, z1, … by default.
    """
    if len(views) < 2:
        raise ValueError(f"a contrastive loss needs at least two views, got {len(views)}")
    for number, view in enumerate(views):
        name = names[number] if names else f"z{number}"
        check_form(name, view)
        if view.shape != views[0].shape:
            what = f"{' and '.join(names)} must" if names else "all views must"
            raise ValueError(
                f"{what} have one shape [B, d], got {names[0] if names else 'z0'} "
                f"{tuple(views[0].shape)} and {name} {tuple(view.shape)}"
            )
        check_beside(names[0] if names else "z0", views[0], name, view)


def check_beside(first: str, z: Tensor, name: str, other: Tensor) -> None:
    """Raise unless embeddings can be compared as they are, on one device and in one precision.

    Half precision is widened to float32, which loses nothing.
    """
    if other.device != z.device:
        raise ValueError(
            f"{name} must be on the device of {first}, {z.device}, got {other.device}; move it"
        )
    if (other.dtype == torch.float64) != (z.dtype == torch.float64):
        raise TypeError(
            f"{name} and {first} must both be torch.float64 or neither, got {other.dtype} and "
            f"{z.dtype}; cast one of them"
        )


def finite_unit_rows(*views: Tensor, first: int = 0, names: Sequence[str] = ()) -> Tensor:
    """Return the rows of views one after another, at length one, ``[V·B, d]``.

    Args:
        *views: ``[B, d]`` each.
        first: Number of the first view, for messages.
        names: What messages call the views, in place of their numbers.

    Raises:
        ValueError: If an entry of a view is NaN or infinite.
    """
    rows = unit_rows(*views)

    def error() -> ValueError:
        bad = (number for number, view in enumerate(views) if _not_finite(view.detach()))
        number = next(bad, 0)
        return _diverged(names[number] if names else f"z{first + number}")

    # NaN, as is a row with such an entry; the rows are bounded.
    kind = names[0] if names else f"z{first}"
    late.check(f"finite {kind}", rows.detach().sum(), error, math.isnan)
    return rows


def check_embeddings(name: str, z: Tensor) -> None:
    """Raise unless ``z`` is a finite floating tensor ``[B, d]`` with at least one row."""
    check_form(name, z)
    late.check(f"finite {name}", _not_finite(z.detach()), lambda: _diverged(name))


def _diverged(name: str) -> ValueError:
    return ValueError(f"{name} holds NaN or infinite embeddings; the model has diverged")


def check_form(name: str, z: Tensor) -> None:
    """Raise unless ``z`` is a dense floating tensor ``[B, d]`` with at least one entry."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{name} must be a tensor [B, d], got {type(z).__name__}")
    _check_dense(name, z)
    if not z.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {z.dtype}; cast it first")
    if z.ndim != 2 or z.shape[0] == 0 or z.shape[1] == 0:
        raise ValueError(f"{name} must have shape [B, d] with B, d ≥ 1, got {tuple(z.shape)}")


def _check_dense(name: str, tensor: Tensor) -> None:
    """Raise unless ``tensor`` is dense and of this process alone."""
    check_local(name, tensor)
    if tensor.layout is not torch.strided or tensor.is_nested:
        what = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, got a {what} one; call to_dense() first")
    check_untransformed(name, tensor)


def check_untransformed(name: str, tensor: Tensor) -> None:
    """Raise ``TypeError`` inside of a transform of torch.func."""
    if not torch.compiler.is_compiling() and is_transformed(tensor):
        raise TypeError(
            f"{name} is inside of a transform of torch.func (grad, vmap, …), which cannot pass "
            f"through this loss; call backward() or torch.autograd.grad instead"
        )


def _not_finite(z: Tensor) -> Tensor:
    # On a CPU the sum, finite in all but bad cases, is much quicker than a look at every entry.
    if z.device.type == "cpu" and late.known(z.sum().isfinite()):
        return torch.tensor(False)
    largest: Tensor = torch.linalg.vector_norm(z, torch.inf)  # or NaN
    return ~(largest < torch.inf)


def labels_per_row(
    labels: Tensor | None, size: int, views: int, device: torch.device
) -> Tensor | None:
    """Return the labels of ``size`` samples ``[views * size]``, view after view; None if None.

    Raises:
        ValueError, TypeError: As :func:`negplug.contract.labels.as_labels`.
    """
    if labels is None:
        return None
    return torch.cat([as_labels("labels", labels, size).to(device)] * views)


def indexes_per_row(
    indexes: Tensor | None, size: int, views: int, device: torch.device
) -> Tensor | None:
    """Return the indexes of ``size`` samples ``[views * size]``, view after view; None if None.

    Raises:
        ValueError: If they are no ``[size]`` or ``[size, 1]``, or one is below 0 or from 2**63 on.
        TypeError: If they are no integers.
    """
    if indexes is None:
        return None
    if isinstance(indexes, Tensor):
        _check_dense("indexes", indexes)
    if not isinstance(indexes, Tensor) or indexes.shape not in ((size,), (size, 1)):
        found = tuple(indexes.shape) if isinstance(indexes, Tensor) else type(indexes).__name__
        raise ValueError(f"indexes must be a tensor [{size}], one entry per sample, got {found}")
    if indexes.is_meta and device.type != "meta":
        raise ValueError("indexes are on the meta device, which holds no values; give real ones")
    if indexes.is_floating_point() or indexes.is_complex() or indexes.dtype == torch.bool:
        raise TypeError(f"indexes must be integers, got {indexes.dtype}")
    numbers = whole_numbers("indexes", indexes.flatten())
    if size:
        late.check(
            "least index",
            numbers.min(),
            lambda: ValueError(
                f"indexes must be at least 0, got {int(numbers.min())}; number the samples from 0"
            ),
            lambda least: least < 0,
        )
    # A copy, also for one view: a loader may write to its memory before a step is over.
    return torch.cat([numbers.to(device)] * views)


_INTEGERS = 1 << 62


def check_integer(where: str, name: str, value: object, least: int) -> int:
    """Return ``value`` if it is an integer of at least ``least``; raise otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {shown(value)}")
    if value >= _INTEGERS:
        raise ValueError(f"{where}: {name} must be below 2**62, got {shown(value)}; lower it")
    return value


def check_room(where: str, name: str, value: int, needed: int, device: torch.device) -> None:
    """Raise ``ValueError`` if a device has no room for what a setting asks for.

    Args:
        where: Whose setting it is.
        name: The setting.
        value: What it was set to.
        needed: Number of bytes.
        device: Where they are needed.
    """
    try:
        if device.type == "cpu" and needed > _memory():
            raise MemoryError  # which some systems only notice when it is written to
        torch.empty(needed, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError, OverflowError, TypeError):
        raise ValueError(
            f"{where}: {name}={shown(value)} needs {needed / 2**30:.3g} GiB on {device}, more than "
            f"there is; lower it"
        ) from None


def _memory() -> float:
    """Return the bytes of memory of this machine; infinite where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows, which promises no memory that it does not have
        return math.inf
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return math.inf


def check_number(where: str, name: str, value: object, least: float, below: float) -> float:
    """Return ``value`` if it is a number in [least, below), up to 1e30; raise otherwise."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not least <= number < below:
        raise ValueError(f"{where}: {name} must be in [{least}, {below}), got {shown(value)}")
    if abs(number) > LARGEST:
        raise ValueError(f"{where}: {name} must be at most {LARGEST}, got {shown(value)}")
    return number


def check_flag(where: str, name: str, value: object) -> bool:
    """Return ``value`` if it is True or False; raise otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be True or False, got {value!r}")
    return value


def check_temperature(temperature: float) -> float:
    """Return ``temperature`` as a float; raise unless it is a number in [1e-30, 1e30]."""
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        raise TypeError(
            "temperature requires a gradient, but is a constant here; detach it, or give "
            "ContrastiveLoss(temperature=LearnedTemperature(…))"
        )
    try:
        if isinstance(temperature, (bool, str)):
            raise TypeError
        tau = float(temperature)
    except OverflowError:
        tau = math.inf
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"temperature must be a number, got {temperature!r}") from None
    if not 1 / LARGEST <= tau <= LARGEST:
        raise ValueError(
            f"temperature must be above 0 and finite, from 1e-30 to 1e30, got {shown(temperature)}"
        )
    return tau


def shown(value: object) -> str:
    """Return a number for a message; of a long integer its size."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return str(value)
