"""Forward and backward pass of the in-batch loss beside Lightly's and solo-learn's.

    python benchmarks/speed/in_batch_loss.py

measures time and peak memory over batch sizes, and the accuracy of the gradient over
temperatures; writes ``in_batch_loss.csv``, ``gradient_accuracy.csv`` and ``in_batch_loss.png``
to ``benchmarks/results``. A host that is not installed is left out. For figures to publish, have
the machine for yourself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import torch
import typer
from figure import draw
from gradient_accuracy import measure_accuracy
from harness import RESULTS, Question, Row, Step, append, show
from losses import LIGHTLY, SOLO, Build, full_losses, ours
from views import correlated_views

TEMPERATURE = 0.1
DIMENSION = 128
SAMPLERS = (
    "uniform(num_negatives=10)",
    "uniform(num_negatives=100)",
    "uniform(num_negatives=100, shared=True)",
)


def setup(build: Build, batch_size: int) -> Step:
    """Return forward and backward pass of a loss, its inputs allocated.

    Args:
        build: Temperature → loss.
        batch_size: B.
    """
    loss = build(TEMPERATURE)
    views = correlated_views(batch_size, DIMENSION)

    def step() -> None:
        for view in views:
            view.grad = None
        torch.autograd.backward(loss(*views))

    return step


def question(threads: int, seconds: float) -> Question:
    """Return all losses that are installed, as competitors."""
    builds = full_losses() | {name: functools.partial(ours, sampler=name) for name in SAMPLERS}
    return Question(
        name="in_batch_loss",
        competitors={name: functools.partial(setup, build) for name, build in builds.items()},
        baselines={"lightly": LIGHTLY, "solo": SOLO},
        config={"d": DIMENSION, "dtype": "float32", "temperature": TEMPERATURE},
        threads=threads,
        seconds=seconds,
    )


COLUMNS = {
    "competitor": "loss",
    "median_ms": "median ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
    "ratio_to_lightly": "Lightly ÷",
    "ratio_to_solo": "solo ÷",
    "peak_extra_mib": "peak MiB",
    "memory_ratio_to_lightly": "Lightly ÷",
    "memory_ratio_to_solo": "solo ÷",
}
"""Key → heading of the printed table; ÷: the host's number divided by this loss's."""


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat for several")
    ] = None,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per batch size, at five rounds least")] = 10,
    results: Annotated[Path, typer.Option(help="folder of tables and plot")] = RESULTS,
) -> None:
    """Time, peak memory and accuracy of the in-batch loss, beside the hosts' own."""
    asked = question(threads, seconds)
    rows: list[Row] = []
    for batch_size in batch_sizes or (256, 1024, 4096):
        measured = asked.measure(batch_size)
        append(measured, results)
        rows += measured
        rounds = measured[0]["rounds"]
        title = f"B = {batch_size}, d = {DIMENSION}, {threads} threads, {rounds} rounds"
        show(title, measured, COLUMNS)
    accuracy = measure_accuracy(threads)
    append(accuracy, results)
    columns = {"competitor": "loss", "temperature": "τ", "relative_error": "gradient error"}
    show("Gradient in float32 against float64, B = 512", accuracy, columns)
    print(draw(rows, results / "in_batch_loss.png"))


if __name__ == "__main__":
    typer.run(main)
