"""How the cost grows with the batch size, from B = 256 to 16,384, at a fixed number of negatives.

    python benchmarks/speed/growth.py

writes ``growth.csv`` and ``growth.png`` to ``benchmarks/results``: time of forward and backward
pass, peak memory, and time per doubling, the median over rounds of the time by that at half the
batch size in the same round. ``in_batch()`` has 2B − 2 negatives per anchor, so that twice the
batch is four times the work. The hosts' losses need gigabytes above 4,096 and are left out. For
figures to publish, have the machine for yourself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from figure import BLUE, GREEN, draw
from harness import RESULTS, Row, append, interleaved, machine, paired_ratio, quantiles, show
from losses import CONFIG, OURS, sampled
from peak_memory import peak_extra_mib

BATCH_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16_384)
LOOKS = {
    OURS: {"color": BLUE, "marker": "o", "linewidth": 2.2},
    "uniform(num_negatives=100)": {"color": BLUE, "marker": "^", "linestyle": "--"},
    "uniform(num_negatives=10)": {"color": GREEN, "marker": "v", "linestyle": "--"},
    "uniform(num_negatives=100, shared=True)": {"color": GREEN, "marker": "D"},
}
"""Sampler → how its line looks."""

_FEWEST_ROUNDS = 3


def measure(sampler: str, batch_sizes: list[int], threads: int, seconds: float) -> list[Row]:
    """Return one row per batch size, all timed round-robin."""
    setup = sampled(sampler)
    steps = {str(size): setup(size) for size in batch_sizes}
    times = {
        int(size): taken.first
        for size, taken in interleaved(steps, seconds, _FEWEST_ROUNDS).items()
    }
    del steps
    rows: list[Row] = []
    for size in batch_sizes:
        half = times.get(size // 2)
        rows.append(
            {
                "question": "growth",
                "competitor": sampler,
                "batch_size": size,
                **CONFIG,
                **machine(threads),
                "rounds": len(times[size]),
                **quantiles(times[size]),
                "time_per_doubling": half and paired_ratio(times[size], half),
                "peak_extra_mib": round(peak_extra_mib(setup, size, threads), 1),
            }
        )
    return rows


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat, each twice the last")
    ] = None,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per loss, at three rounds least")] = 15,
    results: Annotated[Path, typer.Option(help="folder of table and plot")] = RESULTS,
) -> None:
    """Time and peak memory from small batches to large ones, at a fixed number of negatives."""
    torch.set_num_threads(threads)
    columns = {
        "batch_size": "B",
        "median_ms": "median ms",
        "q20_ms": "20 %",
        "q80_ms": "80 %",
        "time_per_doubling": "by that of B/2",
        "peak_extra_mib": "peak MiB",
    }
    rows: list[Row] = []
    for sampler in LOOKS:
        measured = measure(sampler, batch_sizes or list(BATCH_SIZES), threads, seconds)
        append(measured, results)
        rows += measured
        show(f"{sampler}, {measured[0]['rounds']} rounds", measured, columns)
    axis = "batch size B (2B anchors)"
    print(draw(rows, LOOKS, results / "growth.png", "batch_size", axis))


if __name__ == "__main__":
    typer.run(main)
