"""What the device can do at best, and the least time that this leaves for a loss.

    python benchmarks/speed/ceilings.py

writes ``ceilings.csv``: a large matrix product in each precision, and a copy. Other scripts measure
the same in their own process and write down how far above the floor a loss is.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from devices import AUTOCAST, CPU, FLOAT32, DeviceOption, results_of
from harness import RESULTS, Row, Step, append, interleaved, machine, quantiles, show
from torch import Tensor

TF32 = "tf32"
COPY = "copy"

_SIDES = {"cpu": 2048, "cuda": 8192}
_COPIED = {"cpu": 2**26, "cuda": 2**30}
"""Elements of float32."""


class Work(NamedTuple):
    """What a loss cannot do without, forward and backward.

    Attributes:
        flops: Floating point operations of its products.
        moved: Bytes that are read or written once.
    """

    flops: float
    moved: float


class Ceilings(NamedTuple):
    """What was measured.

    Attributes:
        flops: Precision → operations per second of a matrix product.
        bandwidth: Bytes per second of a copy, read and written.
    """

    flops: dict[str, float]
    bandwidth: float

    def floor_ms(self, work: Work, precision: str) -> float:
        """Return the least time for ``work``, arithmetic and memory at the same time."""
        return 1e3 * max(work.flops / self.flops[precision], work.moved / self.bandwidth)


def contrastive(batch_size: int, dimension: int, num_negatives: int | None) -> Work:
    """Return the work of a loss over the 2B views of a batch.

    A pair of rows takes 2d operations for its similarity and 2d for each row's gradient. Rows are
    read once in either pass, and their gradient is written.

    Args:
        batch_size: B.
        dimension: d.
        num_negatives: M of each anchor; None for all 2B rows.
    """
    rows = 2 * batch_size
    pairs = rows * (rows if num_negatives is None else num_negatives)
    return Work(6 * pairs * dimension, 3 * 4 * rows * dimension)


@functools.cache
def ceilings(device: torch.device, seconds: float = 1.0) -> Ceilings:
    """Return what the device can do; measured once in a process, with torch's present threads."""
    steps = _steps(device)
    times = interleaved(steps, seconds, device=device)
    rates = {
        name: _work(name, device) / statistics.median(taken.again) for name, taken in times.items()
    }
    return Ceilings(rates, rates.pop(COPY))


def with_floor(rows: list[Row], device: torch.device, work: Callable[[Row], Work | None]) -> None:
    """Add the columns of the floor to rows: the least time, and the time by it.

    Args:
        rows: As measured in this process.
        device: That computed them.
        work: Row → its work; None leaves its columns empty.
    """
    for row in rows:
        asked = work(row)
        floor = asked and ceilings(device).floor_ms(asked, str(row["dtype"]))
        row["floor_ms"] = floor and float(f"{floor:.3g}")
        row["ratio_to_floor"] = floor and float(f"{float(str(row['median_ms'])) / floor:.3g}")


def _steps(device: torch.device) -> dict[str, Step]:
    side = _SIDES[device.type]
    left, right = torch.randn(2, side, side, device=device)
    source = torch.ones(_COPIED[device.type], device=device)
    steps: dict[str, Step] = {
        FLOAT32: functools.partial(torch.mm, left, right),
        COPY: functools.partial(torch.empty_like(source).copy_, source),
    }
    if device.type == "cuda":
        halves = left.bfloat16(), right.bfloat16()
        steps[TF32] = functools.partial(_tf32_product, left, right)
        steps[AUTOCAST] = functools.partial(torch.mm, *halves)
    return steps


def _tf32_product(left: Tensor, right: Tensor) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    torch.mm(left, right)
    torch.set_float32_matmul_precision(before)


def _work(name: str, device: torch.device) -> float:
    """Return operations of a product, or bytes of a copy."""
    return 2 * 4 * _COPIED[device.type] if name == COPY else 2 * _SIDES[device.type] ** 3


def main(
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time in all, at five rounds least")] = 5,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Rates of a large matrix product in each precision, and of a copy."""
    torch.set_num_threads(threads)
    rows: list[Row] = []
    for name, taken in interleaved(_steps(device), seconds, device=device).items():
        rate = _work(name, device) / statistics.median(taken.again)
        rows.append(
            {
                "question": "ceilings",
                "competitor": "copy" if name == COPY else "matrix product",
                "dtype": FLOAT32 if name == COPY else name.split()[0],
                **machine(threads, device),
                "rounds": len(taken.again),
                **quantiles(taken.again),
                "tera_per_second": float(f"{rate / 1e12:.4g}"),
            }
        )
    append(rows, results_of(results, device))
    columns = {"competitor": "", "dtype": "precision", "median_ms": "median ms"}
    columns["tera_per_second"] = "TFLOP/s or TB/s"
    show("Ceilings", rows, columns)


if __name__ == "__main__":
    typer.run(main)
