"""Fashion-MNIST as tensors on a device, for studies whose small networks train there.

Images are grey and lie on the device as a whole; views are made there, a batch at a time. The
training images are divided: what tunes a setting is the validation part, what is reported the test
images, and no image is in two of them. The rows of these studies were measured with the views made
here, those of recipes with :func:`device_images.build_augmentation`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from datasets import build_dataset
from device_images import load
from evaluation import evaluate
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.transforms import PILToTensor

MEAN, STD = 0.286, 0.353  # of the pixels of Fashion-MNIST
TEST_SIZE = 10_000


@dataclass(frozen=True)
class Part:
    """Some images with their labels.

    Attributes:
        images: Float, normalised, ``[n, 1, side, side]``.
        labels: ``[n]`` int64, on the CPU, where classifiers are fitted.
    """

    images: Tensor
    labels: Tensor

    def as_dataset(self) -> TensorDataset:
        """Return (image, label) pairs."""
        return TensorDataset(self.images.cpu(), self.labels)


@dataclass(frozen=True)
class Fashion:
    """The three parts of the data set."""

    train: Part
    validation: Part
    test: Part


@functools.lru_cache(1)
def fashion(
    size: int, held_out: int, device: str, shrink: int = 1, tested: int | None = None
) -> Fashion:
    """Return the data set; the same for every seed.

    Args:
        size: Images of training, the first ones.
        held_out: Validation images, which follow those of training.
        device: Where the images lie.
        shrink: Side of the squares of pixels that are averaged: 2 gives 14x14 images.
        tested: Images of the test, all of them by default: the fewer, the more of a difference
            is theirs.
    """
    sizes = {True: size + held_out, False: tested or TEST_SIZE}
    read = {train: _read(train, count) for train, count in sizes.items()}
    parts = []
    for train, kept in ((True, slice(size)), (True, slice(size, None)), (False, slice(None))):
        images, labels = (values[kept] for values in read[train])
        small = nn.functional.avg_pool2d(images, shrink) if shrink > 1 else images
        parts.append(Part(((small - MEAN) / STD).to(device), labels))
    return Fashion(*parts)


def _read(train: bool, size: int) -> tuple[Tensor, Tensor]:
    dataset = build_dataset("fashion-mnist", train, PILToTensor(), size=size)
    images, labels = load(dataset, torch.device("cpu"))
    return images[:, :1].float().div_(255), labels


def view(images: Tensor, smallest: float = 0.3) -> Tensor:
    """Return an augmented view of each image: crop, mirror, contrast and brightness.

    Args:
        images: ``[n, 1, side, side]``, normalised.
        smallest: Share of the area that a crop shows at least.

    Returns:
        Images of the same shape; draws come from the device's default generator.
    """
    count, device = len(images), images.device
    area, *where, mirrored, contrast, brightness = torch.rand(6, count, device=device).unbind()
    scale = (smallest + (1 - smallest) * area).sqrt()
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0] = torch.where(mirrored < 0.5, scale, -scale)
    theta[:, 1, 1] = scale
    for axis, place in enumerate(where):
        theta[:, axis, 2] = (2 * place - 1) * (1 - scale)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    cropped = nn.functional.grid_sample(
        images, grid, padding_mode="reflection", align_corners=False
    )
    slope, shift = 0.6 + 0.8 * contrast, 0.8 * brightness - 0.4
    seen: Tensor = cropped * slope[:, None, None, None] + shift[:, None, None, None]
    return seen


def batches(size: int, batch_size: int, epochs: int, device: str) -> list[Tensor]:
    """Return the indexes of shuffled epochs, ``[B]`` each; a ragged last batch is dropped."""
    whole = size // batch_size * batch_size
    orders = (torch.randperm(size, device=device)[:whole] for _ in range(epochs))
    return [indexes for order in orders for indexes in order.view(-1, batch_size)]


def scores(encoder: nn.Module, data: Fashion, part: Part, neighbors: int = 20) -> dict[str, float]:
    """Return :func:`evaluation.evaluate` of a part, fitted to the training images."""
    return evaluate(encoder, data.train.as_dataset(), part.as_dataset(), neighbors=neighbors)
