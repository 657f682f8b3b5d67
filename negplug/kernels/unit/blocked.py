"""Rows of unit length in torch operations, on any device.

Both passes go through a few rows at a time: on a CPU fresh temporaries of a large batch's size cost
more than the arithmetic. Views that are small together are taken together, because then every
operation costs more than its arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from negplug.kernels.precision import widest

# At a time: what stays in a core's cache, and on other devices is worth a kernel launch.
_ROWS = {"cpu": 1024}
_ROWS_ELSEWHERE = 2**14

# As torch.nn.functional.normalize: a zero row stays zero.
SHORTEST = 1e-12
SHORTEST_HALF = 2.0**-10


def blocked_unit_rows(*parts: Tensor) -> Tensor:
    """Return rows of unit length; see :func:`negplug.kernels.unit.unit_rows`."""
    unit: Tensor = _UnitRows.apply(*parts)
    return unit


def widest_of(parts: Sequence[Tensor]) -> torch.dtype:
    """Return the type of the unit rows: float64 if a part has it, else float32."""
    double = any(part.dtype == torch.float64 for part in parts)
    return torch.float64 if double else torch.float32


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.dtypes = [part.dtype for part in parts]
        ctx.lengths = [len(part) for part in parts]
        number = sum(ctx.lengths)
        ctx.together = number <= _rows_at_a_time(parts[0]) and len(set(ctx.dtypes)) == 1
        unit = parts[0].new_empty(number, parts[0].shape[1], dtype=widest_of(parts))
        norm = unit.new_empty(number, 1)
        if ctx.together:
            _write(torch.cat(parts) if len(parts) > 1 else parts[0], unit, norm)
        else:
            places = (torch.split(whole, ctx.lengths) for whole in (unit, norm))
            for part, units, norms in zip(parts, *places, strict=True):
                for block in _blocks(part, units, norms):
                    _write(*block)
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, norm = ctx.saved_tensors
        if ctx.together and all(ctx.needs_input_grad):
            passed = _gradient(grad, unit, norm, ctx.dtypes[0])
            return torch.split(passed, ctx.lengths)
        wholes = (torch.split(whole, ctx.lengths) for whole in (grad, unit, norm))
        return tuple(
            _gradient(*part) if wanted else None
            for *part, wanted in zip(*wholes, ctx.dtypes, ctx.needs_input_grad, strict=True)
        )


def _write(z: Tensor, unit: Tensor, norm: Tensor) -> None:
    wide = z.to(widest(z.device))
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min_(SHORTEST)
    torch.div(wide, length, out=unit)
    # The backward pass divides by it: of rows without a direction nothing is left.
    norm.copy_(torch.threshold_(length, SHORTEST, torch.inf))
    if z.dtype == torch.float16:
        norm.clamp_min_(SHORTEST_HALF)


def _gradient(grad: Tensor, unit: Tensor, norm: Tensor, dtype: torch.dtype) -> Tensor:
    passed = torch.empty_like(unit, dtype=dtype)
    for grads, units, norms, ours in _blocks(grad, unit, norm, passed):
        along = (grads * units).sum(1, keepdim=True)
        torch.div(torch.addcmul(grads, along, units, value=-1), norms, out=ours)
    return passed


def _blocks(*wholes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few rows of each tensor, and then the next ones."""
    if len(wholes[0]) <= (width := _rows_at_a_time(wholes[0])):
        return iter([wholes])
    return zip(*(torch.split(whole, width) for whole in wholes), strict=True)


def _rows_at_a_time(like: Tensor) -> int:
    return _ROWS.get(like.device.type, _ROWS_ELSEWHERE)
