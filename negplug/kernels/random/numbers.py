"""``RandomNumbers``: what a sampler draws from, a function of its seed on every device.

Draw n (the n-th call of a method) takes a stream of its own, whose seed is h_n of the sampler's
stream; see :mod:`negplug.kernels.random`. The seeds are hashed on the host, so that no draw waits
for a device and none has a state to save; only a seed that is on a device itself, in a graph, is
hashed there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from negplug.kernels.precision import widest
from negplug.kernels.random import write_uniforms
from negplug.kernels.random.hashing import hashed_integers, mixed

# Numbers at a time, so that all passes over them stay in a CPU's cache.
_AT_ONCE = {"cpu": 2**17}
_AT_ONCE_ELSEWHERE = 2**24


class RandomNumbers:
    """The random numbers of one sampler in one loss call.

    Whatever computes them, they are the same integers; uniform numbers are the same to the bit
    where there is float64, others to the rounding of a device's functions. torch's generators are
    neither read nor advanced.

    Args:
        seed: Any integer; or an int64 ``[]`` on the device, whose bits are as good.
        device: Where the numbers are wanted.
    """

    def __init__(self, seed: int | Tensor, device: torch.device) -> None:
        self.device = device
        self._seed = seed
        self._draws = 0

    @property
    def in_graph(self) -> bool:
        """Whether the seeds are on the device, as in a graph."""
        return isinstance(self._seed, Tensor)

    def new_seed(self) -> int | Tensor:
        """Return the seed of a new stream, a signed 64-bit integer, on the host if it can be."""
        self._draws += 1
        return mixed(self._seed, self._draws)

    def uniform(self, *shape: int) -> Tensor:
        """Return uniform numbers in (0, 1), in float64 where the device has it."""
        numbers = torch.empty(shape, dtype=widest(self.device), device=self.device)
        write_uniforms(numbers.view(-1), self.new_seed())
        return numbers

    def exponential(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return standard exponential variables −log u, above 0."""
        seed = self.new_seed()
        drawn = torch.empty(shape, dtype=dtype, device=self.device)
        width = min(drawn.numel(), _AT_ONCE.get(self.device.type, _AT_ONCE_ELSEWHERE))
        numbers = drawn.new_empty(width, dtype=widest(self.device))
        if width == drawn.numel():
            write_uniforms(numbers, seed)
            return drawn.copy_(numbers.log_().view(shape)).neg_()
        for start in range(0, drawn.numel(), max(width, 1)):
            part = drawn.view(-1)[start : start + width]
            uniform = numbers[: len(part)]
            write_uniforms(uniform, seed, start)
            part.copy_(uniform.log_()).neg_()
        return drawn

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return standard normal variables (Box and Muller 1958)."""
        count = math.prod(shape)
        radius, angle = self.uniform(2, (count + 1) // 2)
        radius.log_().mul_(-2).sqrt_()
        angle.mul_(2 * math.pi)
        both = torch.empty(2, len(angle), dtype=dtype, device=self.device)
        torch.mul(radius, angle.cos(), out=both[0])
        torch.mul(radius, angle.sin_(), out=both[1])
        return both.view(-1)[:count].view(shape)

    def integers(self, bound: int | Tensor, count: int) -> Tensor:
        """Return integers in [0, bound), each as likely to within bound · 2⁻⁶³, ``[count]``."""
        return hashed_integers(count, self.new_seed(), self.device).remainder_(bound)

    def permutation(self, count: int) -> Tensor:
        """Return the integers in [0, count) in random order, ``[count]`` int64."""
        # Of 63 bits: in a million, two are equal once in 10⁷ permutations, and stay in order.
        return hashed_integers(count, self.new_seed(), self.device).argsort(stable=True)
