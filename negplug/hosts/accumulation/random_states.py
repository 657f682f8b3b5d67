"""The states of the global generators, so that a micro-batch can be run again as it was."""

from __future__ import annotations

import random
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor


class RandomStates(NamedTuple):
    """The states of torch's, Python's and numpy's global generators.

    Attributes:
        torchs: Of torch on the CPU.
        devices: Of torch on the GPU in use, if any, with its device.
        pythons: Of ``random``.
        numpys: Of numpy; None unless it is loaded.
    """

    torchs: Tensor
    devices: list[tuple[torch.device, Tensor]]
    pythons: Any
    numpys: Any

    @classmethod
    def now(cls, device: torch.device) -> RandomStates:
        """Return the present states; nothing waits for the device.

        Args:
            device: On which the model computes.
        """
        used = [device] if device.type == "cuda" else []
        numpy = sys.modules.get("numpy")  # unless it is loaded, nothing draws from it
        return cls(
            torch.get_rng_state(),
            [(each, torch.cuda.get_rng_state(each)) for each in used],
            random.getstate(),
            numpy and numpy.random.get_state(),
        )

    def restore(self) -> None:
        """Put the generators back into these states."""
        torch.set_rng_state(self.torchs)
        for device, state in self.devices:
            torch.cuda.set_rng_state(state, device)
        random.setstate(self.pythons)
        if self.numpys is not None:
            sys.modules["numpy"].random.set_state(self.numpys)
