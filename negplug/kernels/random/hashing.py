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

# Numbers at a time, so that all passes over them stay in a CPU's cache.
_AT_ONCE = {"cpu": 2**16}
_AT_ONCE_ELSEWHERE = 2**24


def hashed_uniforms(count: int, seed: Tensor) -> Tensor:
    """Return uniform numbers; see :func:`negplug.kernels.random.uniforms`."""
    uniforms = torch.empty(count, dtype=torch.float64, device=seed.device)
    width = min(count, _AT_ONCE.get(seed.device.type, _AT_ONCE_ELSEWHERE))
    states = torch.arange(1, width + 1, device=seed.device).mul_(GAMMA).add_(seed)
    hashes, spare = torch.empty_like(states), torch.empty_like(states)
    for part in torch.split(uniforms, width) if count else ():
        hashed = mix_(hashes[: len(part)].copy_(states[: len(part)]), spare[: len(part)])
        part.copy_(shift(hashed, 12, spare[: len(part)])).add_(0.5).mul_(2.0**-52)
        states += _wrapped(width * GAMMA)
    return uniforms


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


def _wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
