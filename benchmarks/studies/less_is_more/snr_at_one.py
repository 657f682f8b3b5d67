"""The gradient's signal-to-noise ratio along training, by number of negatives, at temperature 1.

    python benchmarks/studies/less_is_more/snr_at_one.py

The paper's own measurement: temperature 1, LARS with the learning rate 1.2, moments that forget
over thousands of steps. |E g|/std g of each parameter is averaged over the parameters. Pure noise
has a ratio too, √(2/(π n)) with n = (1 + β)/(1 − β) equal steps: the column ``floor``. Whatever M
is, a seed has the same weights, batches and views. Rows go to ``less_is_more_snr_at_one.csv``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from neighbours import CPU, RESULTS, DeviceOption, Row, completed, machine, results_of
from torch import nn
from training import NETWORKS, SMALL, Setting, train

from negplug.diagnostics import GradientMoments

QUESTION = "less_is_more_snr_at_one"
NUMBERS = (1, 10, 0)
MEASURED = 4  # times along a run
DECAY = 0.999


@dataclass(frozen=True)
class Watched(Setting):
    """A training whose gradients are watched.

    Attributes:
        decay: β of the moments.
    """

    decay: float


def measure(watched: Watched, device: str) -> list[Row]:
    """Train once; return a row per quarter of the run."""
    torch.set_num_threads(1)
    steps = watched.size // watched.batch_size * watched.epochs
    due = {steps * (part + 1) // MEASURED for part in range(MEASURED)}
    moments = GradientMoments(watched.decay)
    noted: list[Row] = []

    def watch(step: int, network: nn.Module) -> None:
        moments.update(network.named_parameters())
        found = moments.snr() if step in due else None
        if found is not None:
            ratio = {"snr": found.mean, "snr_std": found.std, "floor": floor(watched.decay, step)}
            rounded = {name: round(value, 5) for name, value in ratio.items()}
            noted.append({"step": step, **rounded})

    _, seconds = train(watched, device, watch)
    where = machine(1, torch.device(device))
    common = {"question": QUESTION, **asdict(watched)}
    return [{**common, **row, **where, "seconds": round(seconds, 1)} for row in noted]


def floor(decay: float, step: int) -> float:
    """Return the ratio of pure noise: moments that forget see fewer equal steps than there were.

    Args:
        decay: β.
        step: How many steps there were.
    """
    seen = (1 + decay) / (1 - decay) * math.tanh(-step * math.log(decay) / 2)
    return math.sqrt(2 / (math.pi * seen))


def main(
    objective: Annotated[list[str] | None, typer.Option(help="SimCLR, ReLIC; repeat")] = None,
    number: Annotated[list[int] | None, typer.Option(help="M, 0 for all; repeat")] = None,
    alpha: Annotated[float, typer.Option(help="of ReLIC")] = 1.0,
    temperature: Annotated[float, typer.Option(help="τ")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="of LARS")] = 1.2,
    size: Annotated[int, typer.Option(help="training images")] = 2048,
    batch_size: Annotated[int, typer.Option(help="B; all are B − 1 negatives")] = 128,
    epochs: Annotated[int, typer.Option(help="of each run")] = 190,
    network: Annotated[str, typer.Option(help=", ".join(NETWORKS))] = SMALL,
    seeds: Annotated[int, typer.Option(help="runs of each")] = 3,
    processes: Annotated[int, typer.Option(help="runs at a time, one thread each")] = 1,
    device: DeviceOption = CPU,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """SNR of the gradient along training, for each number of negatives."""
    runs = [
        Watched(
            name,
            m,
            temperature,
            alpha if name == "ReLIC" else 0.0,
            learning_rate,
            seed,
            size,
            0,
            batch_size,
            epochs,
            network,
            DECAY,
        )
        for seed in range(1, seeds + 1)
        for name in objective or ("SimCLR", "ReLIC")
        for m in number or NUMBERS
    ]
    run = functools.partial(measure, device=device.type)
    completed(QUESTION, runs, run, processes, results_of(results, device))


if __name__ == "__main__":
    typer.run(main)
