"""One run: Lightly's SimCLR or MoCo in a plain loop, its loss untouched or given other negatives.

Images are one tensor on the device and augmented there, so that a run takes seconds. The loss is
Lightly's ``NTXentLoss``; ``negplug.inject`` treats it in place, and the loop stays what it is.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from choices import CHOICES
from lightly.loss import NTXentLoss
from lightly.models.utils import deactivate_requires_grad, update_momentum
from neighbours import (
    ClutteredDigits,
    DeviceImages,
    Row,
    build_augmentation,
    build_dataset,
    dataset_info,
    evaluate,
    load,
    machine,
    normalised,
    shape_of,
)
from torch import Tensor, nn

import negplug

QUESTION = "which_sampler"

VALIDATION_SIZE = 5_000
"""How many of Fashion-MNIST's last training images settings are chosen by."""

# Tried on the untouched recipe at B = 32, on Fashion-MNIST: 5e-4, 1e-3, 2e-3, 4e-3.
LEARNING_RATE = 2e-3
# Smaller crops cut the digits out of an image.
MIN_SCALE = {"fashion-mnist": 0.4, "cameras": 0.6}

# MoCo's 0.999 moves too little in the few hundred steps of a run.
MOMENTUM = 0.99
QUEUE_SIZE = 1_024
DIM = 64


@dataclass(frozen=True)
class Run:
    """One training; equal settings are the same run.

    Attributes:
        recipe: Name in :data:`choices.RECIPES`.
        data: ``"fashion-mnist"`` or ``"cameras"``.
        batch_size: B.
        choice: Name in :data:`choices.CHOICES`.
        temperature: τ.
        split: ``"validation"`` or ``"test"``.
        seed: Of the weights, the batches and the augmentations.
        train_size: Number of images to train on, the first of the training set.
        epochs: Passes over them.
        width: Channels of the first of three convolutions.
        device: Of everything.
    """

    recipe: str
    data: str
    batch_size: int
    choice: str
    temperature: float
    split: str
    seed: int
    train_size: int
    epochs: int
    width: int
    device: str


class SimCLR(nn.Module):
    """Three convolutions with batch normalisation, a projection head and Lightly's loss."""

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        size = 4 * width
        self.backbone = nn.Sequential(
            *_convolution(3, width),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, size),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.projection_head = nn.Sequential(
            nn.Linear(size, size), nn.ReLU(inplace=True), nn.Linear(size, DIM)
        )
        self.criterion = NTXentLoss(temperature=temperature)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what the loss takes, of (2 * batch_size, 3, side, side), first views ahead."""
        first, second = self.projection_head(self.backbone(views)).chunk(2)
        return first, second


class MoCo(SimCLR):
    """The same network with a slow copy, which embeds the keys, and Lightly's queue of these."""

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__(width, temperature)
        self.slow = nn.Sequential(copy.deepcopy(self.backbone), copy.deepcopy(self.projection_head))
        deactivate_requires_grad(self.slow)
        self.criterion = NTXentLoss(temperature=temperature, memory_bank_size=(QUEUE_SIZE, DIM))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Returns queries and keys."""
        update_momentum(self.backbone, self.slow[0], MOMENTUM)
        update_momentum(self.projection_head, self.slow[1], MOMENTUM)
        first, second = views.chunk(2)
        with torch.no_grad():
            keys = self.slow(second)
        return self.projection_head(self.backbone(first)), keys


MODELS = {"simclr": SimCLR, "moco": MoCo}


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class Training:
    """A run that goes step by step: Adam, and a cosine over all steps.

    Args:
        run: What is trained.

    Attributes:
        model: The network with its loss.
        handle: What was injected into it; None for the untouched recipe.
        batches: Which images meet; None where it is any.
    """

    def __init__(self, run: Run) -> None:
        torch.manual_seed(run.seed)
        device = torch.device(run.device)
        self.model = MODELS[run.recipe](run.width, run.temperature).to(device)
        self.handle = self._injected(run)
        images, labels = (each[: run.train_size] for each in _images(run.data, "train", device))
        augmentation = build_augmentation(dataset_info(run.data), MIN_SCALE[run.data]).to(device)
        data = DeviceImages(images, labels, augmentation, _arranged)
        self.batches = _composed(run, data)
        self._loader = data.loader(run.batch_size, self.batches)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, run.epochs * len(self._loader)
        )

    def _injected(self, run: Run) -> negplug.Injection | None:
        choice = CHOICES[run.choice]
        if choice.sampler is None:
            return None
        handle = negplug.inject(self.model, choice.sampler, choice.objective)
        if choice.column is not None:
            handle.provide(dataset=build_dataset(run.data, True))
        return handle

    def steps(self, epochs: Iterable[int]) -> Iterator[None]:
        """Trains these epochs, and yields after each step."""
        for epoch in epochs:
            if self.handle is not None:
                self.handle.set_epoch(epoch)
            if self.batches is not None:
                self.batches.set_epoch(epoch)
            for indexes, views, labels in self._loader:
                if self.handle is not None:
                    self.handle.provide(indexes=indexes, labels=labels)
                embeddings = self.model(views)
                if self.batches is not None:
                    self.batches.update(indexes, *embeddings)
                loss = self.model.criterion(*embeddings)
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
                self._schedule.step()
                yield


def train(run: Run) -> list[Row]:
    """Trains and scores once; returns one row."""
    torch.set_num_threads(1)
    device = torch.device(run.device)
    training = Training(run)
    started = time.perf_counter()
    for _ in training.steps(range(run.epochs)):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    choice = CHOICES[run.choice]
    return [
        {
            "question": QUESTION,
            **asdict(run),
            "sampler": choice.sampler or "",
            "objective": choice.objective or "",
            "compose": choice.compose or "",
            **_scores(run, training.model, device),
            "seconds": round(seconds, 1),
            **machine(1, device),
        }
    ]


def _composed(run: Run, data: DeviceImages) -> negplug.ComposedBatchSampler | None:
    """Returns which images meet; None where it is any."""
    compose = CHOICES[run.choice].compose
    if compose is None:
        return None
    return negplug.ComposedBatchSampler(
        compose, dataset=data, batch_size=run.batch_size, drop_last=True, seed=run.seed
    )


def _scores(run: Run, model: SimCLR, device: torch.device) -> dict[str, float]:
    """Returns the accuracies of frozen features; settings are never chosen by the test set."""
    known = (each[: run.train_size] for each in _images(run.data, "train", device))
    asked = _images(run.data, run.split, device)
    scores = evaluate(model.backbone, normalised(*known), normalised(*asked))
    return {name: round(value, 5) for name, value in scores.items()}


@functools.cache
def _images(data: str, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the images and labels of a split; a process loads them once."""
    transform = shape_of(dataset_info(data))
    if data == "cameras" and split == "validation":
        # Other cameras than those of the training, as those of the test are; the same digits.
        return load(ClutteredDigits(size=1_000, seed=1, cameras=8, transform=transform), device)
    images, labels = load(build_dataset(data, split != "test", transform), device)
    if data == "fashion-mnist" and split != "test":
        kept = slice(-VALIDATION_SIZE) if split == "train" else slice(-VALIDATION_SIZE, None)
        return images[kept], labels[kept]
    return images, labels


def _arranged(indexes: Tensor, views: list[Tensor], labels: Tensor) -> Any:
    return indexes, torch.cat(views), labels
