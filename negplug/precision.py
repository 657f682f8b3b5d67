"""The widest floating type of a device."""

from __future__ import annotations

import torch


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 where the device has no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64
