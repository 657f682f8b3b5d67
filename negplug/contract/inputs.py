"""Checks of what a host or a user hands over, each with one clear sentence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from negplug.contract.labels import as_labels, whole_numbers
from negplug.kernels import late


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
    if not z.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {z.dtype}; cast it first")
    if z.ndim != 2 or z.shape[0] == 0 or z.shape[1] == 0:
        raise ValueError(f"{name} must have shape [B, d] with B, d ≥ 1, got {tuple(z.shape)}")
    late.check(
        f"finite {name}",
        _not_finite(z.detach()),
        lambda: ValueError(f"{name} holds NaN or infinite embeddings; the model has diverged"),
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
    return as_labels("labels", labels, size).to(device).repeat(views)


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
    if not isinstance(indexes, Tensor) or indexes.shape not in ((size,), (size, 1)):
        found = tuple(indexes.shape) if isinstance(indexes, Tensor) else type(indexes).__name__
        raise ValueError(f"indexes must be a tensor [{size}], one entry per sample, got {found}")
    if indexes.is_floating_point() or indexes.is_complex() or indexes.dtype == torch.bool:
        raise TypeError(f"indexes must be integers, got {indexes.dtype}")
    numbers = whole_numbers("indexes", indexes.flatten())
    late.check(
        "least index",
        (numbers < 0).any(),
        lambda: ValueError(
            f"indexes must be at least 0, got {int(numbers.min())}; number the samples from 0"
        ),
    )
    return numbers.to(device).repeat(views)


def check_integer(where: str, name: str, value: object, least: int) -> int:
    """Return ``value`` if it is an integer of at least ``least``; raise otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {value}")
    return value


def check_number(where: str, name: str, value: object, least: float, below: float) -> float:
    """Return ``value`` if it is a number in [least, below); raise otherwise."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be a number, got {value!r}")
    if not least <= value < below:
        raise ValueError(f"{where}: {name} must be in [{least}, {below}), got {value}")
    return float(value)


def check_flag(where: str, name: str, value: object) -> bool:
    """Return ``value`` if it is True or False; raise otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be True or False, got {value!r}")
    return value


def check_temperature(temperature: float) -> float:
    """Return ``temperature`` as a float; raise unless it is a finite number above 0."""
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        raise TypeError("temperature requires a gradient, but negplug has none for it; detach it")
    try:
        if isinstance(temperature, (bool, str)):
            raise TypeError
        temperature = float(temperature)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"temperature must be a number, got {temperature!r}") from None
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    return temperature
