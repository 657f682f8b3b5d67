"""Rows of unit length, u = z/‖z‖, accurate and lean.

The forward pass works in float64: a norm rounded to float32 would scale a whole row of logits,
which at τ = 0.02 is the largest error of the gradient. For the backward pass,

    ∂L/∂z = (g − ⟨g, u⟩ u) / ‖z‖,

the rounded rows and norms suffice, so no float64 copy is kept. Views are written to their place in
one tensor.

A row shorter than 1e-12 has no direction and gets no gradient, of whatever type it is; that of
``torch.nn.functional.normalize`` would be 1e12 times the unit row's. A row of float16 that is
shorter than 2⁻¹⁰, where its digits are few, gets the gradient of a row of that length, which stays
finite.

- :mod:`negplug.kernels.unit.fused`, a launch for each pass, in Triton;
- :mod:`negplug.kernels.unit.compiled`, loops for few rows on the CPU, in numba;
- :mod:`negplug.kernels.unit.blocked`, a few rows at a time, in torch operations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, numba_refusal, triton_refusal
from negplug.kernels.unit.blocked import blocked_unit_rows

__all__ = ["UNIT", "unit_rows"]


# Numbers in all; beyond, operations of torch cost less.
_FEW = 2**15


class Sizes(NamedTuple):
    """How many numbers the parts hold, and of which types."""

    numbers: int
    types: frozenset[torch.dtype]


def _for_loops(sizes: Sizes) -> bool:
    wide = sizes.types in ({torch.float32}, {torch.float64})
    return wide and sizes.numbers <= _FEW


UNIT: Operation[Sizes] = Operation(
    "rows of unit length",
    Sizes(2**16, frozenset({torch.float32})),
    (
        Kernel("triton", lazily("unit.fused", "fused_unit_rows"), triton_refusal),
        Kernel("numba", lazily("unit.compiled", "compiled_unit_rows"), numba_refusal, _for_loops),
        Kernel("torch", lambda: blocked_unit_rows),
    ),
)


def unit_rows(*parts: Tensor) -> Tensor:
    """Return rows of unit length, ``[N, d]``, in float32 or better.

    Args:
        *parts: ``[n, d]`` each; their rows follow one another.
    """
    sizes = Sizes(sum(part.numel() for part in parts), frozenset(part.dtype for part in parts))
    unit: Tensor = UNIT.kernel(parts[0].device, sizes)(*parts)
    return unit
