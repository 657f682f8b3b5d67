"""Frozen embeddings for the study of bias: of a trained network, or of drawn clusters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from data import NUM_VIEWS, SmallNet, embed, fixed_views, shuffled_batches
from torch import Tensor, nn

from negplug import ContrastiveLoss

DIMENSION = 32

_EPOCHS = 30
_BATCH_SIZE = 64
_TEMPERATURE = 0.2

_CLUSTERS = 16
_SPREAD = (0.6, 0.4)  # of images around their cluster's centre, of views around their image


def trained(size: int) -> Tensor:
    """Return embeddings of the embedded digits by a briefly trained network.

    Args:
        size: n, number of images.

    Returns:
        ``[n, 2, d]`` rows of unit length.
    """
    torch.manual_seed(0)
    views = fixed_views(size)
    network = SmallNet(dimension=DIMENSION)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_fn = ContrastiveLoss(temperature=_TEMPERATURE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_EPOCHS):
        for indexes in shuffled_batches(size, min(size, _BATCH_SIZE), generator):
            z = embed(network, views[indexes])
            optimizer.zero_grad()
            torch.autograd.backward(loss_fn(z[:, 0], z[:, 1]))
            optimizer.step()
    with torch.no_grad():
        return nn.functional.normalize(embed(network, views), dim=2)


def clustered(size: int) -> Tensor:
    """Return drawn embeddings in clusters, whose views are closer together than trained ones.

    Args:
        size: n, number of images.

    Returns:
        ``[n, 2, d]`` rows of unit length.
    """
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(_CLUSTERS, DIMENSION, generator=generator)
    cluster = torch.randint(_CLUSTERS, (size,), generator=generator)
    images = centres[cluster]
    images = images + _SPREAD[0] * torch.randn(size, DIMENSION, generator=generator)
    noise = torch.randn(size, NUM_VIEWS, DIMENSION, generator=generator)
    return nn.functional.normalize(images[:, None] + _SPREAD[1] * noise, dim=2)


EMBEDDINGS: dict[str, Callable[[int], Tensor]] = {"digits": trained, "clusters": clustered}
"""Name → number of images → embeddings."""
