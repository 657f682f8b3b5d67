"""Forward and backward pass of the in-batch loss beside Lightly's and solo-learn's.

    python benchmarks/speed/in_batch_loss.py

measures time and peak memory over batch sizes, and the accuracy of the gradient over
temperatures; writes ``in_batch_loss.csv``, ``gradient_accuracy.csv`` and ``in_batch_loss.png``
to ``benchmarks/results``. Losses that draw per anchor run under each of negplug's backends. A host
that is not installed is left out. On a card under autocast too, and larger batches. For figures to
publish, have the machine for yourself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import torch
import typer
from attention import ATTENTION, attention
from attention import work as attention_work
from ceilings import Work, contrastive, with_floor
from devices import AUTOCAST, CPU, FLOAT32, DeviceOption, precisions, results_of
from figure import BLUE, GREEN, LIGHTLY_LOOK, SOLO_LOOK, draw
from gradient_accuracy import measure_accuracy
from harness import RESULTS, Question, Row, Setup, append, show
from losses import (
    CONFIG,
    DIMENSION,
    LIGHTLY,
    LIGHTLY_DCL,
    OURS,
    PLAIN,
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
HARD = "hard(num_negatives=100)"
MOST_FOR_HARD = 4096
"""Batch size up to which whole rows of similarities are sorted out."""

BATCH_SIZES = {"cpu": (256, 1024, 4096), "cuda": (256, 1024, 4096, 16_384, 32_768)}


def question(
    threads: int, seconds: float, device: torch.device, precision: str, batch_size: int
) -> Question:
    """Return all losses that are installed and sensible at a batch size, as competitors."""
    whole = hosts() | {OURS: ours} | decoupled_losses()
    competitors: dict[str, Setup] = {
        name: functools.partial(forward_backward, whole[name], precision=precision)
        for name in whole
    }
    for sampler in UNIFORM:
        competitors |= by_backend(sampler, sampled(sampler, precision), device)
    competitors[SHARED] = sampled(SHARED, precision)
    if batch_size <= MOST_FOR_HARD:
        competitors[HARD] = sampled(HARD, precision)
    if precision == AUTOCAST:
        competitors[ATTENTION] = attention
    return Question(
        name="in_batch_loss",
        competitors=competitors,
        baselines={"lightly": LIGHTLY, "solo": SOLO, "dcl": LIGHTLY_DCL, "plain": PLAIN},
        config=CONFIG | {"dtype": precision},
        threads=threads,
        seconds=seconds,
        device=device,
    )


def work(row: Row) -> Work:
    """Return what a competitor cannot do without."""
    name, batch_size = str(row["competitor"]), int(str(row["batch_size"]))
    if name == ATTENTION:
        return attention_work(batch_size)
    # hard() looks at all similarities to choose.
    numbers = {UNIFORM[0]: 10, UNIFORM[1]: 100, SHARED: 100}
    drawn = next((number for own, number in numbers.items() if name.startswith(own)), None)
    return contrastive(batch_size, DIMENSION, drawn)


COLUMNS = {
    "competitor": "loss",
    "median_ms": "median ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
    "ratio_to_lightly": "Lightly ÷",
    "ratio_to_solo": "solo ÷",
    "ratio_to_dcl": "DCLLoss ÷",
    "ratio_to_plain": "plain ÷",
    "ratio_to_floor": "÷ floor",
    "peak_extra_mib": "peak MiB",
    "memory_ratio_to_lightly": "Lightly ÷",
    "memory_ratio_to_solo": "solo ÷",
}
"""Key → heading of the printed table; ÷: the host's number divided by this loss's, and this one's
divided by the floor."""

LOOKS = {
    LIGHTLY: LIGHTLY_LOOK,
    SOLO: SOLO_LOOK,
    PLAIN: {"color": "0.5", "marker": "x"},
    OURS: {"color": BLUE, "marker": "o", "linewidth": 2.2},
    f"{UNIFORM[1]}, numba": {"color": BLUE, "marker": "^", "linestyle": "--"},
    f"{UNIFORM[1]}, triton": {"color": BLUE, "marker": "^", "linestyle": "--"},
    f"{UNIFORM[1]}, torch": {"color": BLUE, "marker": "^", "linestyle": ":"},
    f"{UNIFORM[0]}, numba": {"color": GREEN, "marker": "v", "linestyle": "--"},
    f"{UNIFORM[0]}, triton": {"color": GREEN, "marker": "v", "linestyle": "--"},
    f"{UNIFORM[0]}, torch": {"color": GREEN, "marker": "v", "linestyle": ":"},
    SHARED: {"color": GREEN, "marker": "D"},
}
"""Treated hosts are left out, for their points lie on ours; so does the decoupled loss."""


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat for several")
    ] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per batch size, at five rounds least")] = 20,
    results: Annotated[Path, typer.Option(help="folder of tables and plot")] = RESULTS,
) -> None:
    """Time, peak memory and accuracy of the in-batch loss, beside the hosts' own."""
    folder = results_of(results, device)
    rows: list[Row] = []
    for batch_size in batch_sizes or BATCH_SIZES[device.type]:
        for precision in precisions(device):
            asked = question(threads, seconds, device, precision, batch_size)
            measured = asked.measure(batch_size)
            with_floor(measured, device, work)
            append(measured, folder)
            rows += measured
            rounds = measured[0]["rounds"]
            title = f"B = {batch_size}, d = {DIMENSION}, {precision}, {threads} threads"
            show(f"{title}, {rounds} rounds", measured, COLUMNS)
    accuracy = measure_accuracy(threads, device)
    append(accuracy, folder)
    columns = {
        "competitor": "loss",
        "backend": "backend",
        "dtype": "precision",
        "temperature": "τ",
        "relative_error": "gradient error",
    }
    show("Gradient against float64, B = 512", accuracy, columns)
    axis = "batch size B (2B anchors)"
    plain = [row for row in rows if row["dtype"] == FLOAT32]
    print(draw(plain, LOOKS, folder / "in_batch_loss.png", "batch_size", axis))


if __name__ == "__main__":
    typer.run(main)
