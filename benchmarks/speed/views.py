"""Two correlated views of a batch, as a projection head would hand them to a loss, and whose."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

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


def known_samples(
    images: int, classes: int, batch_size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Yield which images a batch has and their classes, over and over.

    Args:
        images: Of the data set; a pass over it takes them in a new order.
        classes: Likewise.
        batch_size: B.
        device: Where both lie.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(images, generator=generator) for _ in range(8)])
    whole = order[: len(order) // batch_size * batch_size].to(device)
    return itertools.cycle(
        {"indexes": indexes, "labels": indexes % classes} for indexes in whole.split(batch_size)
    )
