"""One run of the study: a small network, LARS, and a number of negatives.

As in the paper, negatives are the other samples' embeddings *in the other view* (equation 3), the
optimizer is LARS with a rising and then falling learning rate, and the network normalises over
the batch. What is small is the network, the images and the number of steps.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightly.utils.lars import LARS
from neighbours import Fashion, batches, fashion, view
from torch import Tensor, nn

from negplug import ContrastiveLoss

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-6
WARM_UP = 0.1  # share of the steps
SMALL = "three convolutions"


@dataclass(frozen=True)
class Setting:
    """One training; equal settings are the same run.

    Attributes:
        objective: ``"SimCLR"`` or ``"ReLIC"``; other names say what else a run of InfoNCE is.
        num_negatives: M, or 0 for all of the other view.
        temperature: τ.
        alpha: α of ReLIC; 0 for SimCLR.
        learning_rate: Of LARS, at its highest.
        seed: Of weights, order, views and draws.
        size: Training images.
        held_out: Validation images.
        batch_size: B.
        epochs: Of training.
        network: Name in :data:`NETWORKS`; the small one gets images of 14x14 pixels.
    """

    objective: str
    num_negatives: int
    temperature: float
    alpha: float
    learning_rate: float
    seed: int
    size: int
    held_out: int
    batch_size: int
    epochs: int
    network: str

    def loss(self) -> ContrastiveLoss:
        """Return the loss."""
        everyone = "in_batch(views='cross')"
        few = f"uniform(num_negatives={self.num_negatives}, source={everyone})"
        return ContrastiveLoss(
            few if self.num_negatives else everyone,
            f"relic(alpha={self.alpha})" if self.objective == "ReLIC" else "infonce()",
            temperature=self.temperature,
            seed=self.seed,
        )

    def data(self, device: str) -> Fashion:
        """Return the images."""
        shrink = 2 if self.network == SMALL else 1
        return fashion(self.size, self.held_out, device, shrink)


class Network(nn.Module):
    """An encoder, and a head for training alone.

    Args:
        encoder: Images to representations.
        features: Size of a representation.

    Shape:
        - Input: (batch_size, 1, side, side)
        - Output: (batch_size, features), the embedding
    """

    def __init__(self, encoder: nn.Module, features: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(features, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
            nn.Linear(features, features),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings that the loss compares."""
        embeddings: Tensor = self.head(self.encoder(images))
        return embeddings


def three_convolutions() -> Network:
    """Return three narrow convolutions: quick on a CPU."""
    return _convolutions((1, 8, 16, 32), (2, 2, 2))


def six_convolutions() -> Network:
    """Return six convolutions."""
    return _convolutions((1, 32, 32, 64, 64, 128, 256), (1, 2, 1, 2, 1, 2))


def _convolutions(channels: Sequence[int], strides: Sequence[int]) -> Network:
    layers = [
        layer
        for (inputs, outputs), stride in zip(itertools.pairwise(channels), strides, strict=True)
        for layer in (
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
    ]
    encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(encoder, channels[-1])


NETWORKS: dict[str, Callable[[], Network]] = {
    SMALL: three_convolutions,
    "six convolutions": six_convolutions,
}
"""Name → a network with random weights."""


def train(
    setting: Setting,
    device: str = "cpu",
    watch: Callable[[int, nn.Module], None] | None = None,
) -> tuple[Network, float]:
    """Train once.

    Args:
        setting: What to train.
        device: Where.
        watch: Is told of the number of each step, from 1 on, and of the network with its gradients.

    Returns:
        The network, and the seconds that the training took.
    """
    images = setting.data(device).train.images
    torch.manual_seed(setting.seed)
    network = NETWORKS[setting.network]().to(device)
    loss_fn = setting.loss()
    optimizer = _lars(network, setting.learning_rate)
    order = batches(setting.size, setting.batch_size, setting.epochs, device)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, len(order)))
    started = time.perf_counter()
    for step, indexes in enumerate(order, 1):
        chosen = images[indexes]
        z0, z1 = network(torch.cat([view(chosen), view(chosen)])).chunk(2)
        optimizer.zero_grad()
        torch.autograd.backward(loss_fn(z0, z1))
        if watch is not None:
            watch(step, network)
        optimizer.step()
        schedule.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return network, time.perf_counter() - started


def _lars(network: nn.Module, learning_rate: float) -> LARS:
    """Return LARS; norms and biases are neither decayed nor scaled, as is usual."""
    parameters = list(network.parameters())
    decayed = [each for each in parameters if each.ndim > 1]
    others = [each for each in parameters if each.ndim == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return LARS(groups, lr=learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def _share(step: int, steps: int) -> float:
    """Return the share of the highest learning rate: up along a line, down along a cosine."""
    rising = (step + 1) / (WARM_UP * steps)
    return min(rising, (1 + math.cos(math.pi * step / steps)) / 2)
