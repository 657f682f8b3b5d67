"""Images as one tensor on the device, augmented there: no loader processes and no decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import MEAN, STD, DatasetInfo
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset
from torchvision import transforms

Arrange = Callable[[Tensor, list[Tensor], Tensor], Any]
"""Indexes, views and labels of a batch → what a host's ``training_step`` takes."""


def shape_of(info: DatasetInfo) -> Callable[..., Any]:
    """Returns the transform for :func:`load`: a centre crop in bytes, with the image's channels."""
    grey = [transforms.Grayscale(1)] if info.grey else []
    side = [transforms.Resize(info.image_size), transforms.CenterCrop(info.image_size)]
    transform: Callable[..., Any] = transforms.Compose([*side, *grey, transforms.PILToTensor()])
    return transform


def load(dataset: Dataset[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns all images and labels of a data set of (image, label) pairs.

    Returns:
        images: uint8.
            Shape: (num_images, channels, height, width)
        labels: int64.
            Shape: (num_images,)
    """
    pairs = DataLoader(dataset, batch_size=512, generator=torch.Generator())
    images, labels = zip(*pairs, strict=True)
    return torch.cat(images).to(device), torch.cat(labels).to(device)


def normalised(images: Tensor, labels: Tensor) -> TensorDataset:
    """Returns the data set for frozen features; labels on the CPU, where classifiers are fitted."""
    return TensorDataset(_normalise(_from_bytes(images)), labels.cpu())


def build_augmentation(info: DatasetInfo, min_scale: float = 0.6) -> nn.Module:
    """Returns SimCLR's augmentations as the twin with loader processes has them, of whole batches.

    Args:
        info: The data set.
        min_scale: Least share of an image that a crop keeps; below 0.6 digits are cut out of it.

    Shape:
        - Input: (batch_size, channels, height, width), in [0, 1]
        - Output: (batch_size, channels, image_size, image_size), in [0, 1]
    """
    import kornia.augmentation as K  # of the extra "device"; images are loaded without it

    side = (info.image_size, info.image_size)
    steps = [K.RandomResizedCrop(side, scale=(min_scale, 1.0), cropping_mode="resample")]
    if info.mirrored:
        steps.append(K.RandomHorizontalFlip())
    if info.grey:
        # What jittered colours come to without colours.
        steps += [K.RandomBrightness((0.6, 1.4), p=0.8), K.RandomContrast((0.6, 1.4), p=0.8)]
    else:
        steps += [K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), K.RandomGrayscale(p=0.2)]
    if info.image_size > 64:
        steps.append(K.RandomGaussianBlur((9, 9), (0.1, 2.0)))
    return nn.Sequential(*steps)


class DeviceImages(Dataset[Any]):
    """Batches of two views per image, made where the images are.

    A ``DataLoader`` asks for whole batches by their indexes, so samplers of negatives know them.

    Args:
        images: uint8.
            Shape: (num_images, channels, height, width)
        labels: Of their device.
            Shape: (num_images,)
        augmentation: See :func:`build_augmentation`.
        arrange: What the host's ``training_step`` takes.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, augmentation: nn.Module, arrange: Arrange
    ) -> None:
        self.images = images
        self.labels = labels
        self.augmentation = augmentation
        self.arrange = arrange

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)

    @torch.no_grad()
    def __getitems__(self, indexes: list[int]) -> Any:
        """Returns a batch; the indexes are those of its images."""
        chosen = torch.tensor(indexes).to(self.images.device, non_blocking=True)
        images = _from_bytes(self.images[chosen])
        views = [_normalise(self.augmentation(images)) for _ in range(2)]
        return self.arrange(chosen, views, self.labels[chosen])

    def loader(self, batch_size: int, batches: Sampler[list[int]] | None = None) -> DataLoader[Any]:
        """Returns the loader, which hands on what it gets.

        Args:
            batch_size: Number of images of a batch.
            batches: Which images meet in a batch. Default: any, at random.
        """
        if batches is not None:
            return DataLoader(self, batch_sampler=batches, collate_fn=_as_it_is)
        return DataLoader(self, batch_size, shuffle=True, drop_last=True, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch


def _from_bytes(images: Tensor) -> Tensor:
    return images.float().div_(255)


def _normalise(images: Tensor) -> Tensor:
    """Returns normalised images with three channels, as networks expect them."""
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return (images - mean[:, None, None]) / std[:, None, None]
