"""Backbones for small images, shared by the recipes."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import resnet18


class SmallConvNet(nn.Module):
    """Six convolutions for 32x32 images, quick enough to train on a CPU.

    Args:
        num_features: Size of the representation.

    Attributes:
        num_features: Size of the representation, under the name that solo-learn reads.

    Shape:
        - Input: (batch_size, 3, height, width), height and width at least 16
        - Output: (batch_size, num_features)
    """

    def __init__(self, num_features: int = 256) -> None:
        super().__init__()
        self.num_features = num_features
        # Halving the resolution in the first layer saves most of the time at little accuracy.
        self.layers = nn.Sequential(
            *_convolution(3, 32, stride=2),  # 32x32 -> 16x16
            *_convolution(32, 32),
            *_convolution(32, 64, stride=2),  # -> 8x8
            *_convolution(64, 64),
            *_convolution(64, 128, stride=2),  # -> 4x4
            *_convolution(128, num_features, stride=2),  # -> 2x2
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns one representation per image."""
        features: torch.Tensor = self.layers(images)
        return features


def build_backbone(name: str, image_size: int) -> tuple[nn.Module, int]:
    """Returns a backbone without classification layer, and the size of its representation.

    Args:
        name: ``"small"`` for :class:`SmallConvNet` or ``"resnet18"`` for torchvision's ResNet-18.
        image_size: Side of the images. Up to 64 pixels, ResNet-18 gets the stem that is usual for
            CIFAR: a 3x3 convolution without stride and no pooling.
    """
    if name == "small":
        network = SmallConvNet()
        return network, network.num_features
    resnet = resnet18()
    num_features = resnet.fc.in_features
    resnet.fc = nn.Identity()
    if image_size <= 64:
        resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
    return resnet, num_features


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
