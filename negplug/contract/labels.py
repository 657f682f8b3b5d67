"""Labels of samples, as loaders have them: one integer each, whatever the shape and the type.

Taken are integers of any width, bool, floating-point numbers that hold integers, ``[B]`` or
``[B, 1]``, and one-hot rows ``[B, C]``. What would have to be guessed is refused: soft or several
labels per sample, text, and a batch with more than one field of labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from negplug.contract.local import check_local
from negplug.kernels import late

FIELDS = ("label", "labels", "target", "targets", "y")
"""What fields of labels are called in a batch that is a mapping or has attributes."""

_ONE_EACH = "one integer per sample, [B] or [B, 1], or one-hot rows [B, C]"


def as_labels(name: str, values: Any, size: int | None = None, wait: bool = False) -> Tensor:
    """Return labels ``[B]`` int64.

    Floating-point and one-hot values are looked at: at once on the CPU and in a first call, and
    on a GPU without waiting after that (see :mod:`negplug.kernels.late`).

    Args:
        name: What they are called in messages.
        values: A tensor, a list of integers, or a mapping or an object with one of the
            :data:`FIELDS`.
        size: B, if known.
        wait: Whether to wait for a GPU though it is not the first call.

    Raises:
        ValueError, TypeError: If they are no labels; says what was found.
    """
    values, name = _field(name, values)
    if _is_array_of_numbers(values):
        values = values.astype(values.dtype.newbyteorder("="), copy=False)  # as torch takes it
        values = torch.as_tensor(values)
    elif _is_list_of_integers(values):
        values = torch.as_tensor(values)
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor of {_ONE_EACH}, got {_described(values)}")
    check_local(name, values)
    if values.is_complex() or values.layout != torch.strided:
        raise TypeError(f"{name} must be {_ONE_EACH}, got {values.dtype}, {values.layout}")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or size not in (None, len(values)) or not values.numel():
        wanted = _ONE_EACH if size is None else _ONE_EACH.replace("B", str(size))
        raise ValueError(f"{name} must be {wanted}, got shape {tuple(values.shape)}")
    if values.ndim == 2:
        return _classes(name, values, wait)
    return whole_numbers(name, values, wait)


class Targets:
    """The labels in the batches of one recipe, which may not need any.

    The first of a kind are waited for, whatever other recipes had before. What was refused once is
    not looked at again, so that later batches are not waited for.
    """

    def __init__(self) -> None:
        self._taken: set[tuple[Any, ...]] = set()
        self._refused: dict[tuple[Any, ...], str] = {}

    def read(self, name: str, values: Any, size: int | None = None) -> Tensor:
        """Return :func:`as_labels`.

        Raises:
            ValueError: If they are no labels, or values of their kind were none before.
        """
        kind = name, type(values), getattr(values, "dtype", None), getattr(values, "ndim", None)
        if kind not in self._refused:
            try:
                labels = as_labels(name, values, size, wait=kind not in self._taken)
                self._taken.add(kind)
                return labels
            except (TypeError, ValueError) as error:
                self._refused[kind] = str(error)
        raise ValueError(self._refused[kind])


def whole_numbers(name: str, values: Tensor, wait: bool = False) -> Tensor:
    """Return real numbers as int64, once it is certain that they are integers.

    Raises:
        TypeError: If one is not.
        ValueError: If one does not fit.
    """
    numbers = values.to(torch.int64)
    if values.is_floating_point():
        late.check(
            f"whole {name}",
            (numbers.to(values.dtype) != values).any(),
            lambda: TypeError(f"{name} must be integers, got {_fraction(values)} ({values.dtype})"),
            wait=wait,
        )
    elif values.dtype == torch.uint64:
        late.check(
            f"range of {name}",
            (numbers < 0).any(),
            lambda: ValueError(f"{name} must be below 2**63, got {_largest(values)}"),
            wait=wait,
        )
    return numbers


def _classes(name: str, values: Tensor, wait: bool) -> Tensor:
    ones = (values == 1).sum(1)
    hot = (ones == 1) & ((values == 0).sum(1) == values.shape[1] - 1)
    late.check(
        f"one-hot {name}",
        ~hot.all(),
        lambda: ValueError(
            f"{name} of shape {tuple(values.shape)} must be one-hot, a single 1 in each row, but "
            f"row {int(hot.int().argmin())} is not; choose one label for each sample"
        ),
        wait=wait,
    )
    return (values == 1).to(torch.int8).argmax(1)


def _field(name: str, values: Any) -> tuple[Any, str]:
    """Return the one field of labels of a mapping or an object, and what to call it."""
    named = getattr(values, "_fields", ()) if isinstance(values, tuple) else ()
    if any(field in FIELDS for field in named):
        values = dict(zip(named, values, strict=True))
    if isinstance(values, (Tensor, list, tuple, str, bytes)):
        return values, name
    fields = values if isinstance(values, Mapping) else getattr(values, "__dict__", {})
    found = [field for field in FIELDS if field in fields]
    if len(found) == 1:
        return fields[found[0]], f"{name}[{found[0]!r}]"
    if not isinstance(values, Mapping) and not found:
        return values, name
    what = f"the fields {found}" if found else f"the fields {list(fields)[:8]}"
    raise ValueError(f"{name} must have one of the fields {', '.join(FIELDS)}, got {what}")


def _is_list_of_integers(values: Any) -> bool:
    whole = isinstance(values, (list, tuple)) and len(values) > 0
    return whole and all(isinstance(value, int) for value in values)


def _is_array_of_numbers(values: Any) -> bool:
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    return type(values).__module__ == "numpy" and kind in ("b", "i", "u", "f", "c")


def _described(values: Any) -> str:
    if type(values).__module__ == "numpy":
        return f"{type(values).__name__} of {values.dtype}"
    if isinstance(values, (list, tuple)) and values:
        return f"{type(values).__name__} of {type(values[0]).__name__}"
    return type(values).__name__


def _fraction(values: Tensor) -> float:
    return float(values[values.to(torch.int64).to(values.dtype) != values][0])


def _largest(values: Tensor) -> int:
    return max(map(int, values.tolist()))
