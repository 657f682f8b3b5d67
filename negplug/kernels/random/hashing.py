"""SplitMix64 in torch operations, on any device, and uniform numbers made of it.

See :mod:`negplug.kernels.random`.
"""

from __future__ import annotations

import torch
from torch import Tensor

# γ and the two factors of SplitMix64, as int64; products wrap.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def hashed_uniforms(out: Tensor, seed: Tensor, start: int) -> None:
    """Write uniform numbers; see :func:`negplug.kernels.random.write_uniforms`."""
    count = (len(out) + 1) // 2
    first = start // 2 + 1
    states = torch.arange(first, first + count, device=out.device).mul_(GAMMA).add_(seed)
    halves = mix_(states, out.view(torch.int64)[:count]).view(torch.int32)
    out.copy_(halves[: len(out)]).mul_(2.0**-32).add_(0.5 + 2.0**-33)


def mix_(state: Tensor, spare: Tensor) -> Tensor:
    """Hash int64 states in place, and return them.

    Args:
        state: Any shape.
        spare: Of that shape, to write to.
    """
    state.bitwise_xor_(shift(state, 30, spare)).mul_(_FIRST)
    state.bitwise_xor_(shift(state, 27, spare)).mul_(_SECOND)
    return state.bitwise_xor_(shift(state, 31, spare))


def shift(state: Tensor, by: int, out: Tensor) -> Tensor:
    """Write the bits shifted to the right, zeros coming in, and return them."""
    torch.bitwise_right_shift(state, by, out=out)
    return out.bitwise_and_((1 << (64 - by)) - 1)
