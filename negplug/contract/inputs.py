"""Checks of what a host or a user hands over, each with one clear sentence."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from negplug.kernels import late

LARGEST = 1e30
"""Of a number that is asked for: products of a few such stay finite in float32."""


def check_views(views: tuple[Tensor, ...]) -> None:
    """Raise unless ``views`` are two or more finite floating tensors of one shape ``[B, d]``."""
    if len(views) < 2:
        raise ValueError(f"a contrastive loss needs at least two views, got {len(views)}")
    for number, view in enumerate(views):
        check_embeddings(f"z{number}", view)
        if view.shape != views[0].shape:
            raise ValueError(
                f"all views must have one shape [B, d], got z0 {tuple(views[0].shape)} and "
                f"z{number} {tuple(view.shape)}"
            )


def check_embeddings(name: str, z: Tensor) -> None:
    """Raise unless ``z`` is a finite floating tensor ``[B, d]`` with at least one row."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{name} must be a tensor [B, d], got {type(z).__name__}")
    _check_values(name, z)
    if not z.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {z.dtype}; cast it first")
    if z.ndim != 2 or z.shape[0] == 0 or z.shape[1] == 0:
        raise ValueError(f"{name} must have shape [B, d] with B, d ≥ 1, got {tuple(z.shape)}")
    late.check(
        f"finite {name}",
        _not_finite(z.detach()),
        lambda: ValueError(f"{name} holds NaN or infinite embeddings; the model has diverged"),
    )


def _check_values(name: str, tensor: Tensor) -> None:
    """Raise unless ``tensor`` is dense and has values."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        what = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, got a {what} one; call to_dense() first")
    if tensor.is_meta:
        raise ValueError(f"{name} is on the meta device and has no values; move it to another one")


def _not_finite(z: Tensor) -> Tensor:
    # On a CPU the sum, finite in all but bad cases, is much quicker than a look at every entry.
    if z.device.type == "cpu" and late.known(z.sum().isfinite()):
        return torch.tensor(False)
    largest: Tensor = torch.linalg.vector_norm(z, torch.inf)  # or NaN
    return ~(largest < torch.inf)


def per_sample(
    name: str,
    values: Tensor | None,
    size: int,
    views: int,
    device: torch.device,
    least: int | None = None,
) -> Tensor | None:
    """Return integers ``[size]``, one per sample, repeated view after view; None if None.

    Raises:
        ValueError: If they have another shape, or one is below ``least``.
        TypeError: If they are no integers.
    """
    if values is None:
        return None
    if not isinstance(values, Tensor) or values.shape != (size,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name} must be a tensor [{size}], one entry per sample, got {shape}")
    _check_values(name, values)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    if least is not None:
        late.check(
            f"least {name}",
            (values < least).any(),
            lambda: ValueError(f"{name} must be at least {least}, got {int(values.min())}"),
        )
    return values.to(device=device, dtype=torch.int64).repeat(views)


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
        if device.type == "cpu" and needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf(
            "SC_PHYS_PAGES"
        ):
            raise MemoryError  # which some systems only notice when it is written to
        torch.empty(needed, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError, OverflowError, TypeError):
        raise ValueError(
            f"{where}: {name}={shown(value)} needs {needed / 2**30:.3g} GiB on {device}, more than "
            f"there is; lower it"
        ) from None


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
        raise TypeError("temperature requires a gradient, but negplug has none for it; detach it")
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
