"""A data set of fixed views, and networks whose embeddings are functions of single images.

The global contrastive loss is a sum over the images of a data set, so its exact value needs a
finite set of views: each image of the embedded digits gets V = 2 augmentations, drawn once.

No network here normalises over the batch. With batch statistics an embedding depends on the other
images of its batch: the network is then no function of a single image, and the global loss has no
gradient that mini-batches could estimate.
"""

from __future__ import annotations

import torch
from neighbours import MEAN, STD, ClutteredDigits
from torch import Tensor, nn
from torchvision import transforms

NUM_VIEWS = 2


class SmallNet(nn.Module):
    """Three convolutions and a projection.

    Args:
        width: Channels of the first convolution.
        dimension: d, size of the embedding.

    Shape:
        - Input: (batch_size, 3, 32, 32)
        - Output: (batch_size, d), of any length
    """

    def __init__(self, width: int = 16, dimension: int = 32) -> None:
        super().__init__()
        # A smooth activation: the gradient of the global loss is then continuous.
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=5, stride=2, padding=2),  # 32x32 -> 16x16
            nn.GELU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1),  # -> 8x8
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, kernel_size=3, stride=2, padding=1),  # -> 4x4
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, dimension),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return one embedding per image."""
        embeddings: Tensor = self.layers(images)
        return embeddings


class PooledMLP(nn.Module):
    """One hidden layer on 8x8 pixels: quick enough to train to a stationary point on a CPU.

    Args:
        width: Of the hidden layer.
        dimension: d, size of the embedding.

    Shape:
        - Input: (batch_size, 3, 32, 32)
        - Output: (batch_size, d), of any length
    """

    def __init__(self, width: int = 256, dimension: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(3 * 8 * 8, width),
            nn.GELU(),
            nn.Linear(width, dimension),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return one embedding per image."""
        embeddings: Tensor = self.layers(images)
        return embeddings


def fixed_views(size: int, seed: int = 0) -> Tensor:
    """Return two augmentations of each of the first ``size`` training images, drawn once.

    Args:
        size: n, number of images.
        seed: Of the augmentations.

    Returns:
        Normalised images, ``[n, 2, 3, 32, 32]``.
    """
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, scale=(0.4, 1.0), antialias=True),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = ClutteredDigits(train=True, size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        views = [augment(image) for image, _ in images for _ in range(NUM_VIEWS)]
    return torch.stack(views).view(size, NUM_VIEWS, *views[0].shape)


def embed(network: nn.Module, views: Tensor) -> Tensor:
    """Return the embeddings of all views, ``[n, V, d]``, of any length.

    Args:
        network: Images to embeddings.
        views: ``[n, V, 3, height, width]``.
    """
    embeddings: Tensor = network(views.flatten(0, 1))
    return embeddings.view(*views.shape[:2], -1)


def shuffled_batches(size: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the batches of one shuffled epoch; a ragged last one is dropped.

    Args:
        size: n, number of images.
        batch_size: B.
        generator: Of the permutation.

    Returns:
        Data set indexes, ``[B]`` int64 each.
    """
    order = torch.randperm(size, generator=generator)
    return list(order[: size // batch_size * batch_size].view(-1, batch_size))
