"""One small network in place of the host's; tests put their own in its place."""

from __future__ import annotations

from typing import Any

from torch import nn


def resnet18(method: str, **kwargs: Any) -> nn.Module:
    """Return a network of ResNet-18's width, 512, for images of any size from 4 × 4 on."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return network.append(nn.Linear(16, 512))
