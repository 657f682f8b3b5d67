"""From which share of the columns a whole product costs less than the chosen ones.

    python benchmarks/speed/chosen_columns.py

writes ``chosen_columns.csv`` to ``benchmarks/results``: forward and backward pass of the kernels of
``negplug.kernels.chosen`` alone, for N = K rows and M columns of each chosen at random, over K/M.
The thresholds in that module are the K/M at which the dense kernel draws level; they are printed,
read between two measured shares as if the curves were straight on log-log paper. On a card programs
in Triton take the place of compiled loops, if the operation has any. For figures to rely on, have
the machine for yourself.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from devices import CPU, DeviceOption, results_of
from harness import (
    RESULTS,
    Row,
    Step,
    append,
    installed,
    interleaved,
    machine,
    paired_ratio,
    quantiles,
    show,
)
from torch import Tensor
from torch.nn.functional import normalize

from negplug.kernels.chosen import CHOSEN
from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.dense import dense_similarities
from negplug.kernels.chosen.gradient import Similarities

DIMENSION = 128
POOLS = (2048, 8192)
SHARES = (64, 32, 16, 12, 8, 4)
DENSE, BAGS, COMPILED = "dense", "bags (torch)", "compiled (numba)"
PROGRAM = "programs (triton)"


def compiled(*arguments: torch.Tensor | None) -> torch.Tensor:
    """Call the compiled kernel, whose module needs numba."""
    from negplug.kernels.chosen.compiled import compiled_similarities

    return compiled_similarities(*arguments)


def kernels_of(device: torch.device) -> dict[str, Similarities]:
    """Return what can serve a device, by name."""
    anywhere = {DENSE: dense_similarities, BAGS: bag_similarities}
    if device.type == "cpu":
        return anywhere | installed({COMPILED: ("numba", compiled)})
    programs = [kernel for kernel in CHOSEN.kernels if kernel.backend == "triton"]
    return anywhere | ({PROGRAM: programs[0].load()} if programs else {})


def step_of(kernel: Similarities, pool_size: int, share: int, device: torch.device) -> Step:
    """Return forward and backward pass of a kernel, for N = K and M = K/share."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device)

    anchors, pool = (normalize(random(pool_size, DIMENSION), dim=1) for _ in range(2))
    size = (pool_size, pool_size // share)
    columns = torch.randint(pool_size, size, generator=generator).to(device)
    gradient = random(*size)
    inputs = (anchors.requires_grad_(), pool.requires_grad_())
    return lambda: torch.autograd.grad(kernel(*inputs, columns, None), inputs, gradient)


def measure(pool_size: int, threads: int, seconds: float, device: torch.device) -> list[Row]:
    """Return one row per kernel and share; the kernels take turns."""
    kernels = kernels_of(device)
    rows: list[Row] = []
    for share in SHARES:
        steps = {
            name: step_of(kernel, pool_size, share, device) for name, kernel in kernels.items()
        }
        times = interleaved(steps, seconds, device=device)
        rows += [
            {
                "question": "chosen_columns",
                "competitor": name,
                "pool": pool_size,
                "pool_by_columns": share,
                "d": DIMENSION,
                "dtype": "float32",
                **machine(threads, device),
                "rounds": len(taken.first),
                **quantiles(taken.first),
                "ratio_to_dense": paired_ratio(times[DENSE].first, taken.first),
            }
            for name, taken in times.items()
        ]
    return rows


def draws_level(rows: list[Row], kernel: str) -> float | None:
    """Return the K/M at which a kernel takes as long as the dense one; None if at none."""
    own = [row for row in rows if row["competitor"] == kernel]
    points = [(math.log(row["pool_by_columns"]), math.log(row["ratio_to_dense"])) for row in own]
    for (x, above), (next_x, below) in itertools.pairwise(points):
        if above >= 0 > below:
            return math.exp(x + (next_x - x) * above / (above - below))
    return None


def main(
    pools: Annotated[
        list[int] | None, typer.Option("--pool", help="K, and N; repeat for several")
    ] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per share, at five rounds least")] = 5,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Time of the kernels for chosen columns, over the share of columns that are chosen."""
    torch.set_num_threads(threads)
    columns = {
        "competitor": "kernel",
        "pool_by_columns": "K/M",
        "median_ms": "median ms",
        "q20_ms": "20 %",
        "q80_ms": "80 %",
        "ratio_to_dense": "dense ÷",
    }
    for pool_size in pools or POOLS:
        rows = measure(pool_size, threads, seconds, device)
        append(rows, results_of(results, device))
        show(f"N = K = {pool_size}, d = {DIMENSION}, {threads} threads", rows, columns)
        for kernel in (BAGS, COMPILED if device.type == "cpu" else PROGRAM):
            level = draws_level(rows, kernel)
            place = "at none of these shares" if level is None else f"at K/M = {level:.1f}"
            print(f"{kernel} draws level with {DENSE} {place}")


if __name__ == "__main__":
    typer.run(main)
