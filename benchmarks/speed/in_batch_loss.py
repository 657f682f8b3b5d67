"""Forward and backward pass of the in-batch loss beside Lightly's and solo-learn's.

    python benchmarks/speed/in_batch_loss.py

measures time and peak memory over batch sizes, and the accuracy of the gradient over
temperatures; writes ``in_batch_loss.csv``, ``gradient_accuracy.csv`` and ``in_batch_loss.png``
to ``benchmarks/results``. Losses that draw per anchor run under each of negplug's backends. A host
that is not installed is left out. For figures to publish, have the machine for yourself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer
from figure import BLUE, GREEN, LIGHTLY_LOOK, SOLO_LOOK, draw
from gradient_accuracy import measure_accuracy
from harness import RESULTS, Question, Row, append, show
from losses import (
    CONFIG,
    DIMENSION,
    LIGHTLY,
    LIGHTLY_DCL,
    OURS,
    SOLO,
    by_backend,
    decoupled_losses,
    forward_backward,
    hosts,
    ours,
    sampled,
)

UNIFORM = ("uniform(num_negatives=10)", "uniform(num_negatives=100)")
SHARED = "uniform(num_negatives=100, shared=True)"


def question(threads: int, seconds: float) -> Question:
    """Return all losses that are installed, as competitors."""
    whole = hosts() | {OURS: ours} | decoupled_losses()
    competitors = {name: functools.partial(forward_backward, whole[name]) for name in whole}
    for sampler in UNIFORM:
        competitors |= by_backend(sampler, sampled(sampler))
    competitors[SHARED] = sampled(SHARED)
    return Question(
        name="in_batch_loss",
        competitors=competitors,
        baselines={"lightly": LIGHTLY, "solo": SOLO, "dcl": LIGHTLY_DCL},
        config=CONFIG,
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
    "ratio_to_dcl": "DCLLoss ÷",
    "peak_extra_mib": "peak MiB",
    "memory_ratio_to_lightly": "Lightly ÷",
    "memory_ratio_to_solo": "solo ÷",
}
"""Key → heading of the printed table; ÷: the host's number divided by this loss's."""

LOOKS = {
    LIGHTLY: LIGHTLY_LOOK,
    SOLO: SOLO_LOOK,
    OURS: {"color": BLUE, "marker": "o", "linewidth": 2.2},
    f"{UNIFORM[1]}, numba": {"color": BLUE, "marker": "^", "linestyle": "--"},
    f"{UNIFORM[1]}, torch": {"color": BLUE, "marker": "^", "linestyle": ":"},
    f"{UNIFORM[0]}, numba": {"color": GREEN, "marker": "v", "linestyle": "--"},
    f"{UNIFORM[0]}, torch": {"color": GREEN, "marker": "v", "linestyle": ":"},
    SHARED: {"color": GREEN, "marker": "D"},
}
"""Treated hosts are left out, for their points lie on ours; so does the decoupled loss."""


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat for several")
    ] = None,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per batch size, at five rounds least")] = 20,
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
    columns = {
        "competitor": "loss",
        "backend": "backend",
        "temperature": "τ",
        "relative_error": "gradient error",
    }
    show("Gradient in float32 against float64, B = 512", accuracy, columns)
    axis = "batch size B (2B anchors)"
    print(draw(rows, LOOKS, results / "in_batch_loss.png", "batch_size", axis))


if __name__ == "__main__":
    typer.run(main)
