"""How many negatives, tuned where the paper tunes: temperatures from 0.2 to 5, α from 0.1 to 100.

    python paper_region.py                                   (a small network, a CPU)
    python paper_region.py --device cuda --network "six convolutions" \
        --size 50000 --epochs 200 --batch-size 1024          (nearer to the paper)

What is tuned, and on what, is fixed before anything runs. For each objective and each M, with
seed 0 and the linear accuracy of *validation* images, one after the other,

1. the temperature, of 0.2, 0.5, 1, 2 and 5, at the middle learning rate and α = 1;
2. ReLIC's α, of 0.1, 1, 10 and 100, at that temperature;
3. the learning rate, of three, at both.

Ties go to the value that comes first. The setting that is left is trained with further seeds and
scored on the *test* images, which nothing else sees: :mod:`verdicts` reads these rows. Equal seeds
share weights, batches and views, so that settings are compared seed by seed. Beside them stands the
same network untrained.

Rows go to ``less_is_more_region.csv`` in ``benchmarks/results`` as they come; a run that the file
holds is not repeated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from neighbours import (
    CPU,
    RESULTS,
    DeviceOption,
    Row,
    completed,
    machine,
    results_of,
    scores,
)
from training import NETWORKS, SMALL, Setting, train

QUESTION = "less_is_more_region"
NUMBERS = (1, 2, 5, 10, 50, 100, 0)
TEMPERATURES = (0.2, 0.5, 1.0, 2.0, 5.0)
ALPHAS = (0.1, 1.0, 10.0, 100.0)
LEARNING_RATES = (1.5, 5.0, 15.0)
TUNING_SEED = 0


def measure(setting: Setting, device: str) -> list[Row]:
    """Train once; a run with the tuning seed is scored on validation images, others on the test's.

    Returns:
        One row.
    """
    torch.set_num_threads(1)
    network, seconds = train(setting, device)
    data = setting.data(device)
    tuning = setting.seed == TUNING_SEED
    found = scores(network.encoder, data, data.validation if tuning else data.test)
    return [
        {
            "question": QUESTION,
            **asdict(setting),
            "scored": "validation" if tuning else "test",
            **{name: round(value, 5) for name, value in found.items()},
            **machine(1, torch.device(device)),
            "seconds": round(seconds, 2),
        }
    ]


def tuned(start: Sequence[Setting], run: Callable[[list[Setting]], list[Row]]) -> list[Setting]:
    """Return the settings after the three stages, each stage for all at once.

    Args:
        start: One per objective and M.
        run: Returns a row per setting, in their order.
    """
    stages: list[tuple[str, Sequence[float]]] = [
        ("temperature", TEMPERATURES),
        ("alpha", ALPHAS),
        ("learning_rate", LEARNING_RATES),
    ]
    best = list(start)
    for field, values in stages:
        asked = [_asked(setting, field, values) for setting in best]
        rows = iter(run([each for several in asked for each in several]))
        best = [_best(several, [next(rows) for _ in several]) for several in asked]
    return best


def _asked(setting: Setting, field: str, values: Sequence[float]) -> list[Setting]:
    if field == "alpha" and setting.objective != "ReLIC":
        return [setting]
    changes: list[dict[str, Any]] = [{field: value} for value in values]
    return [replace(setting, **change) for change in changes]


def _best(settings: Sequence[Setting], rows: Sequence[Row]) -> Setting:
    """Return the setting of the highest validation accuracy, the first of equals."""
    scored = [float(str(row["linear_acc"])) for row in rows]
    return settings[scored.index(max(scored))]


def main(
    objective: Annotated[list[str] | None, typer.Option(help="SimCLR, ReLIC; repeat")] = None,
    number: Annotated[list[int] | None, typer.Option(help="M, 0 for all; repeat")] = None,
    size: Annotated[int, typer.Option(help="training images")] = 2048,
    held_out: Annotated[int, typer.Option(help="validation images")] = 2048,
    batch_size: Annotated[int, typer.Option(help="B; all are B − 1 negatives")] = 128,
    epochs: Annotated[int, typer.Option(help="of each run")] = 16,
    network: Annotated[str, typer.Option(help=", ".join(NETWORKS))] = SMALL,
    seeds: Annotated[int, typer.Option(help="of the tuned setting")] = 5,
    processes: Annotated[int, typer.Option(help="runs at a time, one thread each")] = 1,
    device: DeviceOption = CPU,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Tune each number of negatives on validation images, then score it on test images."""
    common = (TUNING_SEED, size, held_out, batch_size, epochs, network)
    start = [
        Setting(name, m, 1.0, 1.0 if name == "ReLIC" else 0.0, LEARNING_RATES[1], *common)
        for name in objective or ("SimCLR", "ReLIC")
        for m in number or NUMBERS
    ]
    run = functools.partial(
        completed,
        QUESTION,
        measure=functools.partial(measure, device=device.type),
        processes=processes,
        results=results_of(results, device),
    )
    # A learning rate of 0: what accuracy is worth without any training.
    untrained = Setting("untrained", 0, 1.0, 0.0, 0.0, *common)
    best = [*tuned(start, run), untrained]
    run([replace(each, seed=TUNING_SEED + 1 + seed) for seed in range(seeds) for each in best])


if __name__ == "__main__":
    typer.run(main)
