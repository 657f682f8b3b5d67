"""SplitMix64 in torch operations, on any device, and uniform numbers made of it.

See :mod:`negplug.kernels.random`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# γ and the two factors of SplitMix64, as int64; products wrap.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def hashed_uniforms(out: Tensor, seed: int | Tensor, start: int) -> None:
    """Write uniform numbers; see :func:`negplug.kernels.random.write_uniforms`."""
    count = (len(out) + 1) // 2
    first = start // 2 + 1
    states = torch.arange(first, first + count, device=out.device).mul_(GAMMA).add_(seed)
    exact = out.dtype == torch.float64
    spare = out.view(torch.int64)[:count] if exact else torch.empty_like(states)
    halves = mix_(states, spare).view(torch.int32)
    out.copy_(halves[: len(out)]).mul_(2.0**-32).add_(0.5 + 2.0**-33)
    if not exact:
        out.clamp_(2.0**-33, 1 - 2.0**-24)


def hashed_integers(count: int, seed: int | Tensor, device: torch.device) -> Tensor:
    """Return ⌊h_t/2⌋ for t = 1, …, count, int64 from 0 upwards."""
    if isinstance(seed, int) and device.type == "cpu":
        return torch.from_numpy(integers_on_host(count, seed))
    states = torch.arange(1, count + 1, device=device).mul_(GAMMA).add_(seed)
    spare = torch.empty_like(states)
    return shift(mix_(states, spare), 1, spare)


def integers_on_host(count: int, seed: int) -> Any:
    """Return :func:`hashed_integers` as an array, whose operations cost less if it is small."""
    state = np.arange(1, count + 1, dtype=np.uint64)
    state *= np.uint64(GAMMA % 2**64)
    state += np.uint64(seed % 2**64)
    for by, factor in ((30, _FIRST), (27, _SECOND)):
        state ^= state >> np.uint64(by)
        state *= np.uint64(factor % 2**64)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(1)).view(np.int64)


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


def mixed(seed: int | Tensor, number: int | Tensor) -> int | Tensor:
    """Return h_t of :mod:`negplug.kernels.random` for one t, signed.

    It is computed on the host, unless the seed or t is a tensor ``[]`` int64.
    """
    if isinstance(seed, Tensor) or isinstance(number, Tensor):
        step = number * GAMMA
        state = seed + (step if isinstance(step, Tensor) else _signed(step))
        assert isinstance(state, Tensor)
        return mix_(state, torch.empty_like(state))
    state = (seed + number * GAMMA) % 2**64
    state = (state ^ (state >> 30)) * _FIRST % 2**64
    state = (state ^ (state >> 27)) * _SECOND % 2**64
    state ^= state >> 31
    return _signed(state)


def _signed(number: int) -> int:
    """Return the lower 64 bits as a signed integer."""
    return (number + 2**63) % 2**64 - 2**63
