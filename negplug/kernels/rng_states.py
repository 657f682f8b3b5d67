"""The states of the global generators, so that what draws from them leaves no trace.

negplug draws from none of them. What it calls may: an encoder with dropout, a data set with
augmentations, a training step.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class RngStates(NamedTuple):
    """The states of torch's, Python's and numpy's global generators.

    Attributes:
        cpu: Of torch on the CPU.
        devices: Of torch on the GPU in use, if any, with its device.
        python: Of ``random``.
        numpy: Of numpy; None unless it is loaded.
    """

    cpu: Tensor
    devices: list[tuple[torch.device, Tensor]]
    python: Any
    numpy: Any

    @classmethod
    def now(cls, device: torch.device) -> RngStates:
        """Return the present states; nothing waits for the device.

        Args:
            device: On which is computed.
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
        torch.set_rng_state(self.cpu)
        for device, state in self.devices:
            torch.cuda.set_rng_state(state, device)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)


@contextlib.contextmanager
def isolated_rng(device: torch.device) -> Iterator[None]:
    """Put the global generators back on leaving.

    Args:
        device: On which is computed inside.
    """
    before = RngStates.now(device)
    try:
        yield
    finally:
        before.restore()
