"""Types and modes of torch: the widest type of a device, and memory outside inference mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 where the device has no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextlib.contextmanager
def not_inference() -> Iterator[None]:
    """Compute without gradient, and without inference mode also inside of it.

    What is allocated in inference mode cannot be written to later, outside of it.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
