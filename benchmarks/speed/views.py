"""Embeddings of two correlated views, as a projection head would hand them to a loss."""

from __future__ import annotations

import torch
from devices import CPU
from torch import Tensor


def correlated_views(
    batch_size: int,
    dimension: int = 128,
    spread: float = 0.5,
    seed: int = 0,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor]:
    """Return two float32 tensors ``[B, d]`` that require gradients.

    Args:
        batch_size: B.
        dimension: d.
        spread: Standard deviation of what a view adds to its sample, the sample's being 1: at
            0.5 the views of a sample have a cosine of 0.8.
        seed: Of the random numbers, which are the same on every device.
        device: Where the views lie.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(batch_size, dimension, generator=generator)
    noise = torch.randn(2, batch_size, dimension, generator=generator)
    first, second = (samples + spread * noise).to(device)
    return first.requires_grad_(), second.requires_grad_()
