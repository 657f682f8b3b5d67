"""Which estimator's representation serves a linear probe and the nearest neighbour?

    python benchmarks/studies/emc2/accuracy.py                               (a small MLP, a CPU)
    python benchmarks/studies/emc2/accuracy.py --device cuda --network ResNet-18 --size 50000

The second experiment of Yau et al. 2024 (EMC², arXiv:2404.10575) on Fashion-MNIST: batches of 32,
τ = 0.07, Adam with a learning rate of 1e-4, 100 epochs, no batch normalisation. Nothing is tuned,
for anyone. An image outside of the batch is embedded in two new views. A seed has the same weights
and the same order of images whoever estimates. Scores are of test images.

Rows go to ``emc2_accuracy.csv`` in ``benchmarks/results`` as soon as a run is over; a run that the
file holds already is not repeated.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from estimators import ESTIMATORS, PAPER, SIMCLR, chosen, described
from neighbours import (
    CPU,
    RESULTS,
    DeviceOption,
    Row,
    batches,
    completed,
    fashion,
    machine,
    paired,
    results_of,
    scores,
    view,
)
from torch import Tensor, nn
from torchvision.models import resnet18

DEFAULT = (
    SIMCLR,
    "emc2, recompute",
    PAPER,
    "isir, recompute",
    "gumbel_max, queue(size=2n)",
    "SogCLR",
)
QUESTION = "emc2_accuracy"


@dataclass(frozen=True)
class Run:
    """One training; equal settings are the same run.

    Attributes:
        estimator: Name in :data:`estimators.ESTIMATORS`.
        temperature: τ.
        size: n, number of training images.
        batch_size: B.
        epochs: Of training.
        learning_rate: Of Adam.
        network: Name in :data:`ENCODERS`.
        seed: Of weights, order, views and the estimator's draws.
    """

    estimator: str
    temperature: float
    size: int
    batch_size: int
    epochs: int
    learning_rate: float
    network: str
    seed: int


def perceptron() -> tuple[nn.Module, int]:
    """Return two hidden layers on 14x14 pixels, and the size of their representation."""
    layers = [nn.Linear(14 * 14, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers), 128


def residual() -> tuple[nn.Module, int]:
    """Return a ResNet-18 for small grey images, and the size of its representation."""
    network = resnet18(norm_layer=nn.Identity)  # called with the number of channels
    features = network.fc.in_features
    network.conv1 = nn.Conv2d(1, 64, kernel_size=3, padding=1)
    network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network, features


ENCODERS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "MLP": perceptron,
    "ResNet-18": residual,
}
"""Name → a network with random weights, without batch normalisation."""


def train(run: Run, device: str) -> list[Row]:
    """Train once and score the representation; return one row."""
    torch.set_num_threads(1)
    data = fashion(run.size, 0, device, shrink=2 if run.network == "MLP" else 1)
    images = data.train.images
    torch.manual_seed(run.seed)
    encoder, features = ENCODERS[run.network]()
    head = [nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 64)]
    network = nn.Sequential(encoder, *head).to(device)
    estimator = ESTIMATORS[run.estimator](run.size, run.temperature, run.seed).to(device)

    def encode(indexes: Tensor) -> tuple[Tensor, Tensor]:
        wanted = images[indexes]
        z0, z1 = network(torch.cat([view(wanted), view(wanted)])).chunk(2)
        return z0, z1

    optimizer = torch.optim.Adam(network.parameters(), lr=run.learning_rate)
    # Drawn ahead: how many images an estimator encodes does not change it.
    order = batches(run.size, run.batch_size, run.epochs, device)
    started = time.perf_counter()
    for indexes in order:
        loss = estimator(*encode(indexes), indexes=indexes, encode=encode)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    seconds = time.perf_counter() - started  # of a loop that reads nothing: of a card's launches
    found = scores(encoder, data, data.test, neighbors=1)
    return [
        {
            "question": QUESTION,
            **asdict(run),
            "expression": described(run.estimator),
            **{name: round(value, 5) for name, value in found.items()},
            **machine(1, torch.device(device)),
            "seconds": round(seconds, 1),
        }
    ]


def report(rows: Sequence[Row]) -> None:
    """Print each estimator's accuracies, and its gain over SimCLR, paired by seed."""
    for column in ("linear_acc", "knn_acc"):
        of = {
            name: {int(str(r["seed"])): 100 * float(str(r[column])) for r in rows if is_of(r, name)}
            for name in dict.fromkeys(str(row["estimator"]) for row in rows)
        }
        print(f"{column} in %, mean; minus SimCLR's, paired by seed")
        for name, own in of.items():
            gain = paired(own, of[SIMCLR]) if name != SIMCLR and SIMCLR in of else ""
            print(f"  {name}: {statistics.fmean(own.values()):.1f}; {gain}")


def is_of(row: Row, name: str) -> bool:
    """Return whether a row is an estimator's."""
    return row["estimator"] == name


def main(
    estimator: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    temperature: Annotated[float, typer.Option(help="τ")] = 0.07,
    size: Annotated[int, typer.Option(help="training images; the test has 10,000")] = 1024,
    batch_size: Annotated[int, typer.Option(help="B")] = 32,
    epochs: Annotated[int, typer.Option(help="of each run")] = 100,
    learning_rate: Annotated[float, typer.Option(help="of Adam")] = 1e-4,
    network: Annotated[str, typer.Option(help=", ".join(ENCODERS))] = "MLP",
    seeds: Annotated[int, typer.Option(help="runs per estimator")] = 3,
    processes: Annotated[int, typer.Option(help="runs at a time, one thread each")] = 1,
    device: DeviceOption = CPU,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Linear probe and 1-NN after training with each estimator."""
    setting = (temperature, size, batch_size, epochs, learning_rate, network)
    runs = [
        Run(name, *setting, seed) for seed in range(seeds) for name in chosen(estimator, DEFAULT)
    ]
    measure = functools.partial(train, device=device.type)
    report(completed(QUESTION, runs, measure, processes, results_of(results, device)))


if __name__ == "__main__":
    typer.run(main)
