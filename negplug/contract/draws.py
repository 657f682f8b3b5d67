"""The counters that key every random draw."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from negplug.kernels.random.hashing import mixed
from negplug.kernels.random.numbers import RandomNumbers


@dataclass(frozen=True)
class Draws:
    """Counters that key every random draw.

    A draw is a function of ``(seed, step, call, rank)`` and of the sampler's place in its
    expression: there is no generator state to save or to gather, and torch's generators are never
    touched.

    Attributes:
        seed: The run's seed.
        step: Training steps done so far; an int64 ``[]`` where a device counts them, in a graph.
        call: Number of the loss call inside its step.
        rank: This process in the process group.
    """

    seed: int = 0
    step: int | Tensor = 0
    call: int = 0
    rank: int = 0

    def random(self, stream: int, device: torch.device) -> RandomNumbers:
        """Return the random numbers of one sampler (numbered ``stream``) for this call."""
        return RandomNumbers(self.seed_of(stream), device)

    def seed_of(self, stream: int) -> int | Tensor:
        """Return the seed of one sampler for this call, on the device if the step is there."""
        key = struct.pack("<4q", self.seed, self.call, self.rank, stream)
        digest = hashlib.blake2b(key, digest_size=8).digest()
        # The step alone changes in a graph, and comes in by a hash that a device computes too.
        return mixed(int.from_bytes(digest, "little", signed=True), self.step)
