"""How the cost grows with the batch size, from B = 256 to 16,384, at a fixed number of negatives.

    python benchmarks/speed/growth.py

writes ``growth.csv`` and ``growth.png`` to ``benchmarks/results``: time of forward and backward
pass, peak memory, and time per doubling, the median over rounds of the time by that at half the
batch size in the same round. ``in_batch()`` has 2B − 2 negatives per anchor, so that twice the
batch is four times the work. The hosts' losses need gigabytes above 4,096 and are left out. On a
card up to 32,768, and under autocast too. For figures to publish, have the machine for yourself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from ceilings import Work, contrastive, with_floor
from devices import CPU, FLOAT32, DeviceOption, precisions, results_of
from figure import BLUE, GREEN, draw
from harness import RESULTS, Row, append, interleaved, machine, paired_ratio, quantiles, show
from losses import CONFIG, DIMENSION, OURS, sampled
from peak_memory import peak_extra_mib

BATCH_SIZES = {"cpu": (256, 512, 1024, 2048, 4096, 8192, 16_384)}
BATCH_SIZES["cuda"] = (*BATCH_SIZES["cpu"], 32_768)
LOOKS = {
    OURS: {"color": BLUE, "marker": "o", "linewidth": 2.2},
    "uniform(num_negatives=100)": {"color": BLUE, "marker": "^", "linestyle": "--"},
    "uniform(num_negatives=10)": {"color": GREEN, "marker": "v", "linestyle": "--"},
    "uniform(num_negatives=100, shared=True)": {"color": GREEN, "marker": "D"},
}
"""Sampler → how its line looks."""
NEGATIVES = dict(zip(LOOKS, (None, 100, 10, 100), strict=True))
"""Sampler → M of each anchor; None for all."""

_FEWEST_ROUNDS = 3


def measure(
    sampler: str,
    batch_sizes: tuple[int, ...],
    threads: int,
    seconds: float,
    device: torch.device,
    precision: str,
) -> list[Row]:
    """Return one row per batch size, all timed round-robin."""
    setup = sampled(sampler, precision)
    steps = {str(size): setup(size, device) for size in batch_sizes}
    times = {
        int(size): taken.first
        for size, taken in interleaved(steps, seconds, _FEWEST_ROUNDS, device).items()
    }
    del steps
    rows: list[Row] = []
    for size in times:
        half = times.get(size // 2)
        rows.append(
            {
                "question": "growth",
                "competitor": sampler,
                "batch_size": size,
                **CONFIG,
                "dtype": precision,
                **machine(threads, device),
                "rounds": len(times[size]),
                **quantiles(times[size]),
                "time_per_doubling": half and paired_ratio(times[size], half),
                "peak_extra_mib": round(peak_extra_mib(setup, size, threads, device), 1),
            }
        )
    with_floor(rows, device, work)
    return rows


def work(row: Row) -> Work:
    """Return what a sampler's loss cannot do without."""
    number = NEGATIVES[str(row["competitor"])]
    return contrastive(int(str(row["batch_size"])), DIMENSION, number)


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat, each twice the last")
    ] = None,
    device: DeviceOption = CPU,
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
        "ratio_to_floor": "÷ floor",
    }
    sizes = tuple(batch_sizes or BATCH_SIZES[device.type])
    folder = results_of(results, device)
    rows: list[Row] = []
    for sampler in LOOKS:
        for precision in precisions(device):
            measured = measure(sampler, sizes, threads, seconds, device, precision)
            append(measured, folder)
            rows += measured
            show(f"{sampler}, {precision}, {measured[0]['rounds']} rounds", measured, columns)
    axis = "batch size B (2B anchors)"
    plain = [row for row in rows if row["dtype"] == FLOAT32]
    print(draw(plain, LOOKS, folder / "growth.png", "batch_size", axis))


if __name__ == "__main__":
    typer.run(main)
