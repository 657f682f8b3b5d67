"""A data set of fixed views, and networks whose embeddings are functions of single images.

The global contrastive loss is a sum over the images of a data set, so its exact value needs a
finite set of views: each image gets V = 2 augmentations, drawn once.

No network here normalises over the batch. With batch statistics an embedding depends on the other
images of its batch: the network is then no function of a single image, and the global loss has no
gradient that mini-batches could estimate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from neighbours import MEAN, STD, build_dataset, dataset_info
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import resnet18

NUM_VIEWS = 2


class SmallNet(nn.Module):
    """Three convolutions and a projection.

    Args:
        width: Channels of the first convolution.
        dimension: d, size of the embedding.

    Shape:
        - Input: (batch_size, 3, side, side), with a side from 25 to 32
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
        - Input: (batch_size, 3, side, side), with a side of at least 8
        - Output: (batch_size, d), of any length
    """

    def __init__(self, width: int = 256, dimension: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(8),
            nn.Flatten(),
            nn.Linear(3 * 8 * 8, width),
            nn.GELU(),
            nn.Linear(width, dimension),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return one embedding per image."""
        embeddings: Tensor = self.layers(images)
        return embeddings


def resnet18_without_norm() -> nn.Module:
    """Return torchvision's ResNet-18 without batch normalisation, with embeddings of d = 128."""
    # Called with the number of channels, as a norm layer is.
    network: nn.Module = resnet18(norm_layer=nn.Identity, num_classes=128)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "PooledMLP": PooledMLP,
    "SmallNet": SmallNet,
    "ResNet-18": resnet18_without_norm,
}
"""Name → a network with random weights."""


@functools.cache
def fixed_views(size: int, data: str = "digits", seed: int = 0) -> Tensor:
    """Return two augmentations of each of the first ``size`` training images, drawn once.

    Args:
        size: n, number of images.
        data: Name of a data set of the recipes.
        seed: Of the augmentations.

    Returns:
        Normalised images, ``[n, 2, 3, side, side]``.
    """
    info = dataset_info(data)
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(info.image_size, scale=(0.4, 1.0), antialias=True),
            *([transforms.RandomHorizontalFlip()] if info.mirrored else []),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    # Every image twice, augmented as it is read.
    images = build_dataset(data, True, augment, size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        views = [images[place][0] for place in range(size) for _ in range(NUM_VIEWS)]
    return torch.stack(views).view(size, NUM_VIEWS, *views[0].shape)


def embed(network: nn.Module, views: Tensor) -> Tensor:
    """Return the embeddings of all views, ``[n, V, d]``, of any length.

    Args:
        network: Images to embeddings.
        views: ``[n, V, 3, side, side]``.
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
