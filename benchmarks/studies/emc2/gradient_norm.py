"""Does training with an estimator end at a stationary point of the global loss?

    python benchmarks/studies/emc2/gradient_norm.py

The experiment of Yau et al. 2024 (EMC², arXiv:2404.10575) on embedded data: 500 images (theirs
are of STL-10) with two fixed augmentations each, batches of 4 images, SGD with momentum, a
network without batch normalisation (see :mod:`data`). Logged against the samples seen is ‖∇L‖²,
the squared norm of the exact gradient of the global loss with respect to all parameters of the
network. The estimators differ in nothing else: each starts from the same weights per seed, sees
the same batches, and has the same learning rate, which rises for one twentieth of the steps. Then
it

- stays (``--schedule constant``), as in the theorem, which bounds the mean of ‖∇L‖² over the
  steps: the end of a run is the mean over its last quarter, the noise of small batches included;
- or falls to zero along half a cosine (``cosine``): the noise vanishes, and the last value shows
  the estimator's bias and what the epochs did not suffice for.

Rows go to ``emc2_gradient_norm.csv`` as soon as a run is over; a run that the file holds already
is not repeated. The picture is ``emc2_gradient_norm_constant.png`` (or ``…_cosine.png``), both in
``benchmarks/results``.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from data import NETWORKS, embed, fixed_views, shuffled_batches
from estimators import ESTIMATORS, PAPER, SIMCLR, chosen, described
from exact import parameter_gradient
from gradient_norm_figure import draw, ends
from neighbours import RESULTS, Row, completed, machine, mean
from torch import Tensor

DEFAULT = (
    SIMCLR,
    "SogCLR",
    "gumbel_max, queue(size=2n)",
    PAPER,
    "emc2, cached",
    "emc2, recompute",
    "emc2, drop",
    "isir, cached",
    "isir, recompute",
)
EVALUATIONS = 20  # of the exact gradient, beside the one before training
QUESTION = "emc2_gradient_norm"


@dataclass(frozen=True)
class Run:
    """One training; equal settings are the same run.

    Attributes:
        estimator: Name in :data:`estimators.ESTIMATORS`.
        temperature: τ.
        size: n, number of images.
        batch_size: B.
        epochs: Of training.
        learning_rate: At its highest.
        momentum: Of SGD.
        schedule: ``"constant"`` or ``"cosine"``, of the learning rate.
        warm_up: Share of the steps in which the learning rate rises.
        data: Name of a data set of the recipes.
        network: Name in :data:`data.NETWORKS`.
        seed: Of the weights, of shuffling and of the estimator's draws.
    """

    estimator: str
    temperature: float
    size: int
    batch_size: int
    epochs: int
    learning_rate: float
    momentum: float
    schedule: str
    warm_up: float
    data: str
    network: str
    seed: int


def train(run: Run) -> list[Row]:
    """Train once; return a row per evaluation of the exact gradient."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    views = fixed_views(run.size, run.data)
    torch.manual_seed(run.seed)
    network = NETWORKS[run.network]()
    estimator = ESTIMATORS[run.estimator](run.size, run.temperature, run.seed)

    def encode(indexes: Tensor) -> tuple[Tensor, Tensor]:
        z = embed(network, views[indexes])
        return z[:, 0], z[:, 1]

    optimizer = torch.optim.SGD(network.parameters(), lr=run.learning_rate, momentum=run.momentum)
    steps = run.epochs * (run.size // run.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_share, run, steps))
    generator = torch.Generator().manual_seed(run.seed)
    evaluated = {round(run.epochs * k / EVALUATIONS) for k in range(EVALUATIONS + 1)}
    rows: list[Row] = []
    for epoch in range(run.epochs + 1):
        if epoch in evaluated:
            loss, gradient = parameter_gradient(network, views, run.temperature)
            rows.append(_row(run, epoch, loss, float(gradient.square().sum())))
            rows[-1]["seconds"] = round(time.perf_counter() - started, 1)
        if epoch == run.epochs:
            break
        for indexes in shuffled_batches(run.size, run.batch_size, generator):
            value = estimator(*encode(indexes), indexes=indexes, encode=encode)
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()
            schedule.step()
    return rows


def _share(run: Run, steps: int, step: int) -> float:
    """Return the share of the highest learning rate; chains that have just begun are noisy."""
    progress = step / steps
    fallen = (1 + math.cos(math.pi * progress)) / 2 if run.schedule == "cosine" else 1.0
    return min(progress / run.warm_up, 1.0) * fallen if run.warm_up else fallen


def _row(run: Run, epoch: int, loss: float, squared_norm: float) -> Row:
    """Return a row of the CSV."""
    return {
        "question": QUESTION,
        **asdict(run),
        "expression": described(run.estimator),
        "samples_seen": epoch * (run.size // run.batch_size) * run.batch_size,
        "global_loss": round(loss, 5),
        "squared_norm": float(f"{squared_norm:.5g}"),
        **machine(1),
    }


def main(
    estimator: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    temperature: Annotated[float, typer.Option(help="τ")] = 0.07,
    size: Annotated[int, typer.Option(help="n, number of images")] = 500,
    batch_size: Annotated[int, typer.Option(help="B")] = 4,
    epochs: Annotated[int, typer.Option(help="of each run")] = 600,
    learning_rate: Annotated[float, typer.Option(help="highest, the same for all")] = 0.02,
    momentum: Annotated[float, typer.Option(help="of SGD")] = 0.9,
    schedule: Annotated[str, typer.Option(help="constant or cosine")] = "constant",
    warm_up: Annotated[float, typer.Option(help="share of steps, of the learning rate")] = 0.05,
    data: Annotated[str, typer.Option(help="a data set of the recipes")] = "digits",
    network: Annotated[str, typer.Option(help=", ".join(NETWORKS))] = "PooledMLP",
    seeds: Annotated[int, typer.Option(help="runs per estimator")] = 3,
    processes: Annotated[int, typer.Option(help="runs at a time, one thread each")] = 2,
    results: Annotated[Path, typer.Option(help="folder of table and plot")] = RESULTS,
) -> None:
    """Squared norm of the exact global gradient along training."""
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule must be 'constant' or 'cosine', got {schedule!r}")
    setting = (temperature, size, batch_size, epochs, learning_rate, momentum, schedule)
    setting = (*setting, warm_up, data, network)
    runs = [
        Run(name, *setting, seed) for seed in range(seeds) for name in chosen(estimator, DEFAULT)
    ]
    rows = completed(QUESTION, runs, train, processes, results)
    report(rows)
    shown = schedule if data == "digits" else f"{data}_{schedule}"
    print(draw(rows, results / f"{QUESTION}_{shown}.png"))


def report(rows: Sequence[Row]) -> None:
    """Print the end of each estimator's runs, and how far below SimCLR's it is."""
    norms, losses = ends(rows, "squared_norm"), ends(rows, "global_loss")
    means = {name: statistics.geometric_mean(own) for name, own in norms.items()}
    print(
        "estimator: ‖∇L‖² at the end, geometric mean [least, most] of the seeds; SimCLR's ÷ this; "
        "global loss, minus SimCLR's; intervals of 95 %, paired by seed, ratios by their logarithm"
    )
    for name, own in norms.items():
        ratio = less = "–"
        if name != SIMCLR and len(norms.get(SIMCLR, ())) == len(own):
            logs = [math.log(s / o) for s, o in zip(norms[SIMCLR], own, strict=True)]
            found = mean(logs)
            ratio = f"{math.exp(found.middle):.2f}"
            ratio += f" [{math.exp(found.low):.2f}, {math.exp(found.high):.2f}]"
            less = str(mean([o - s for s, o in zip(losses[SIMCLR], losses[name], strict=True)]))
        print(
            f"  {name}: {means[name]:.3g} [{min(own):.3g}, {max(own):.3g}]; {ratio}; "
            f"global loss {statistics.fmean(losses[name]):.3f}, {less}; {len(own)} seeds"
        )


if __name__ == "__main__":
    typer.run(main)
