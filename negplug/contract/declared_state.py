"""What a state was declared to be, and what a saved value may look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_LARGEST = 1e30
"""Far beyond every embedding and logit, and a sum of many still fits into float32."""

MOST = 1 << 62
"""Above every counter; one that begins here still counts in 64 bits."""


@dataclass(frozen=True)
class Declared:
    """A state as it was declared: an integer, or a tensor of a shape, None being any size."""

    default: int | float | bool
    shape: tuple[int | None, ...] | None
    dtype: torch.dtype | None

    def empty(self) -> int | Tensor:
        """Return the state that nothing was written to."""
        if self.shape is None:
            return int(self.default)
        return torch.full([size or 0 for size in self.shape], self.default, dtype=self.dtype)

    def misfit(self, value: Any) -> str | None:
        """Return what is wrong with a saved value, None if nothing is."""
        if self.shape is None:
            return no_count(value)
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested:
            return f"is {type(value).__name__}, not a dense tensor"
        fixed = zip(self.shape, value.shape, strict=False)
        if value.ndim != len(self.shape) or any(s not in (None, v) for s, v in fixed):
            return f"has shape {tuple(value.shape)}, not {self.shape}"
        wanted = _FLOATS if self.dtype is None else (self.dtype,)
        if value.dtype not in wanted:
            return f"has type {value.dtype}, not {self.dtype or 'a floating-point type'}"
        if value.device.type == "meta":
            return "has no values, being on the device meta"
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return f"has shape {tuple(value.shape)}, but fewer values"
        return self._misfit_of_numbers(value) if value.is_floating_point() else None

    def _misfit_of_numbers(self, value: Tensor) -> str | None:
        if value.isnan().any():
            return "holds NaN"
        infinite = value.isinf()
        if (infinite & (value != self.default)).any():
            return "holds infinite values"
        if value.masked_fill(infinite, 0).abs().gt(_largest(value.dtype)).any():
            return f"holds values beyond ±{_LARGEST:g}"
        return None


def no_count(value: Any, beyond: int = MOST) -> str | None:
    """Return what is wrong with a saved counter, None if it is an integer from 0 on.

    Args:
        value: Whatever was saved.
        beyond: What it must be below.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        return f"is {type(value).__name__}, not an integer"
    if value < 0:
        return f"is {value}, below 0" if value > -MOST else "is far below 0"
    return f"is not below {beyond}" if value >= beyond else None


def _largest(dtype: torch.dtype) -> float:
    return min(_LARGEST, torch.finfo(dtype).max)
