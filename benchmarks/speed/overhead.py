"""What a sampler costs beside arithmetic: steps so small, or a device so fast, that calls count.

    python benchmarks/speed/overhead.py

writes ``overhead.csv`` to ``benchmarks/results``: forward and backward pass and update of every
sampler with ``infonce()``, beside the hosts' losses over the batch, which take turns. On one core
of a CPU at B = 8; on a card at B = 256, where a step is bound by what the host launches.

Also what a steady step asks for: the operations that torch dispatches and that write, each of which
is a kernel to launch on a card (Triton's programs come on top), and there how often the host waits
for the device.
"""

from __future__ import annotations

import functools
import statistics
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from devices import CPU, FLOAT32, DeviceOption, results_of
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
from losses import (
    DIMENSION,
    LIGHTLY,
    SOLO,
    TEMPERATURE,
    Build,
    forward_backward,
    lightly,
    ours,
    solo,
)
from torch.utils._python_dispatch import TorchDispatchMode
from views import correlated_views, known_samples

IMAGES = 1024
CLASSES = 5
BATCH_SIZES = {"cpu": 8, "cuda": 256}
SAMPLERS = (
    "in_batch()",
    "gather()",
    "uniform(num_negatives=8)",
    "uniform(num_negatives=8, shared=True)",
    "queue(size={queue})",
    "queue(size={queue}, num_negatives=8)",
    f"memory_bank(size={IMAGES})",
    f"memory_bank(num_negatives=8, size={IMAGES})",
    "hierarchical(in_batch(), queue(size={queue}))",
    "stratified(num_negatives=8, source=queue(size={queue}))",
    "hard(num_negatives=8)",
    "hard(num_negatives=8, skip=2)",
    "schedule(in_batch(), queue(size={queue}), from_steps=(0, 1))",
    "filtered(by='labels')",
    "false_negatives(threshold=0.3)",
    "synthetic(num_mixed=4, num_hardest=8, num_noisy=4, sigma=0.1)",
    "gumbel_max(num_negatives=8)",
    f"emc2(size={IMAGES})",
    f"isir(size={IMAGES})",
)
"""``{queue}``: eight batches. Of more rows the arithmetic would be measured, and not the calls."""
_WARM_UP = 20
"""Steps until a queue is full, after a pass over the images, in which each gets a chain."""


class Writes(TorchDispatchMode):
    """Counts operations that compute or write; views and fresh memory are free."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count and call."""
        name = func._schema.name.split("::")[1].strip("_")
        fresh = name.startswith(("empty", "new_empty", "unsafe_view", "reshape_alias"))
        self.count += not (func.is_view or fresh)
        return func(*args, **(kwargs or {}))


def treated_step(sampler: str, batch_size: int, device: torch.device) -> Step:
    """Return forward and backward pass and update of ours."""
    loss = ours(TEMPERATURE, sampler).to(device)
    views = correlated_views(batch_size, DIMENSION, device=device)
    known = known_samples(IMAGES, CLASSES, batch_size, device)

    def step() -> None:
        for view in views:
            view.grad = None
        torch.autograd.backward(loss(*views, **next(known)))
        loss.end_step()

    for _ in range(IMAGES // batch_size + _WARM_UP):
        step()
    return step


def host_waits(step: Step) -> int:
    """Return how often the host waits for the card in a step."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def writes(step: Step) -> int:
    """Return how many dispatched operations of a step write."""
    with Writes() as counted:
        step()
    return counted.count


def measure(
    samplers: list[str], batch_size: int, threads: int, seconds: float, device: torch.device
) -> list[Row]:
    """Return one row per loss; all of them take turns."""
    torch.set_num_threads(threads)
    built: dict[str, Build] = installed(
        {
            LIGHTLY: ("lightly", functools.partial(lightly, criterion="NTXentLoss")),
            SOLO: ("solo", solo),
        }
    )
    steps = {name: forward_backward(build, batch_size, device) for name, build in built.items()}
    steps |= {name: treated_step(name, batch_size, device) for name in samplers}
    times = interleaved(steps, seconds, device=device)
    rows: list[Row] = []
    for name, taken in times.items():
        row: Row = {
            "question": "overhead",
            "competitor": name,
            "batch_size": batch_size,
            "d": DIMENSION,
            "dtype": FLOAT32,
            **machine(threads, device),
            "rounds": len(taken.first),
            **quantiles(taken.first),
            "again_ms": round(1e3 * statistics.median(taken.again), 3),
        }
        for short, baseline in (("lightly", LIGHTLY), ("solo", SOLO)):
            host = times.get(baseline)
            row[f"ratio_to_{short}"] = host and paired_ratio(host.first, taken.first)
            row[f"again_ratio_to_{short}"] = host and paired_ratio(host.again, taken.again)
        row["writing_operations"] = writes(steps[name])
        if device.type == "cuda":
            row["host_waits"] = host_waits(steps[name])
        rows.append(row)
    return rows


COLUMNS = {
    "competitor": "loss",
    "median_ms": "median ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
    "ratio_to_lightly": "Lightly ÷",
    "ratio_to_solo": "solo ÷",
    "again_ms": "again ms",
    "again_ratio_to_lightly": "again ÷",
    "writing_operations": "operations",
}
"""Key → heading of the printed table; ÷: the host's time divided by this loss's."""


def main(
    sampler: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    batch_size: Annotated[int, typer.Option(help="B; 0: 8 on a CPU, 256 on a card")] = 0,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads; one core, unless said")] = 1,
    seconds: Annotated[float, typer.Option(help="time in all, at five rounds least")] = 20,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Overhead of every sampler, beside the hosts' losses."""
    size = batch_size or BATCH_SIZES[device.type]
    samplers = [name.format(queue=8 * size) for name in SAMPLERS]
    rows = measure(sampler or samplers, size, threads, seconds, device)
    append(rows, results_of(results, device))
    columns = COLUMNS | ({"host_waits": "host waits"} if device.type == "cuda" else {})
    show(
        f"B = {size}, d = {DIMENSION}, {threads} threads, {rows[0]['rounds']} rounds", rows, columns
    )


if __name__ == "__main__":
    typer.run(main)
