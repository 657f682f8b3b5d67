"""Measures how hard the embedded digits are: raw pixels, untrained features, supervised training.

Usage: python benchmarks/recipes/data_check.py

Between untrained features and supervised training there must be room for samplers to differ.
"""

from __future__ import annotations

import time

import torch
from backbone import SmallConvNet
from datasets import build_dataset, dataset_info, evaluation_transform
from evaluation import evaluate, extract_features
from torch import nn

EPOCHS = 8
BATCH_SIZE = 64


class _Pixels(nn.Module):
    """An encoder that does nothing; its parameter only tells the device."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(start_dim=1) * self.scale


def train_supervised(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Trains a network with labels, by Adam with a one-cycle schedule.

    Args:
        network: Maps images to logits.
        images: Training images.
            Shape: (num_images, 3, 32, 32)
        labels: Class labels.
            Shape: (num_images,)
    """
    steps = EPOCHS * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))[: steps // EPOCHS * BATCH_SIZE]
        for chosen in order.view(-1, BATCH_SIZE):
            loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def main() -> None:
    """Prints one line per measurement."""
    torch.manual_seed(0)
    plain = evaluation_transform(dataset_info("digits").image_size)
    start = time.perf_counter()
    train_set, test_set = (build_dataset("digits", train, plain) for train in (True, False))
    print(f"generation: {time.perf_counter() - start:.1f} s")

    backbone = SmallConvNet()
    for name, encoder in {"raw pixels": _Pixels(), "untrained backbone": backbone}.items():
        scores = evaluate(encoder, train_set, test_set)
        print(f"{name}: knn_acc {scores['knn_acc']:.3f}, linear_acc {scores['linear_acc']:.3f}")

    # Decode once: (num_images, 3 * 32 * 32) -> (num_images, 3, 32, 32)
    (images, labels), (test_images, test_labels) = (
        map(torch.from_numpy, extract_features(_Pixels(), part)) for part in (train_set, test_set)
    )
    network = nn.Sequential(backbone, nn.Linear(backbone.num_features, 10))
    start = time.perf_counter()
    train_supervised(network, images.view(-1, 3, 32, 32), labels)
    network.eval()
    with torch.inference_mode():
        predicted = network(test_images.view(-1, 3, 32, 32)).argmax(dim=1)
    accuracy = (predicted == test_labels).float().mean().item()
    seconds = time.perf_counter() - start
    print(f"supervised, {EPOCHS} epochs: accuracy {accuracy:.3f} in {seconds:.0f} s")


if __name__ == "__main__":
    main()
