"""What a training step in micro-batches saves in memory and costs in time.

    python benchmarks/speed/accumulation.py

trains a convolutional network on two views of random 32x32 images with ``in_batch()``, once on the
whole batch and once in 4 and in 16 micro-batches (``negplug.accumulated``), and writes
``accumulation.csv`` to ``benchmarks/results``. The images are not counted among the memory: the
loader gives them. For figures to publish, have the machine for yourself.
A row takes a dozen steps at least, so batches of thousands take minutes on a CPU.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from devices import CPU, DeviceOption, results_of
from harness import RESULTS, Question, Step, append, show
from torch import Tensor, nn

import negplug

sys.path.insert(1, str(Path(__file__).parents[1] / "recipes"))
from backbone import SmallConvNet

WHOLE = "whole batch"
_IMAGE = 32
_DIMENSION = 128


def training_step(count: int, batch_size: int, device: torch.device) -> Step:
    """Return a step in ``count`` micro-batches: forward, backward, optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(SmallConvNet(), nn.Linear(256, _DIMENSION)).to(device)
    loss_fn = negplug.ContrastiveLoss("in_batch()").to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    views = [torch.randn(batch_size, 3, _IMAGE, _IMAGE, device=device) for _ in range(2)]

    def loss(batch: list[Tensor]) -> Tensor:
        value: Tensor = loss_fn(*(model(view) for view in batch))
        return value

    run = negplug.accumulated(loss, count, model=model, loss=loss_fn)

    def step() -> None:
        run(views).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(
    batch_size: Annotated[list[int] | None, typer.Option(help="repeat for several")] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="to spend on one batch size")] = 30.0,
    results: Annotated[Path, typer.Option(help="folder of tables and plots")] = RESULTS,
) -> None:
    """Measure a step on the whole batch and in micro-batches."""
    names = {WHOLE: 1} | {f"{count} micro-batches": count for count in (4, 16)}
    competitors = {name: functools.partial(training_step, count) for name, count in names.items()}
    question = Question(
        "accumulation",
        competitors,
        {"whole": WHOLE},
        {"image": _IMAGE, "d": _DIMENSION},
        threads,
        seconds,
        device,
    )
    rows = [row for size in batch_size or (256,) for row in question.measure(size)]
    print(append(rows, results_of(results, device)))
    columns = {"competitor": "step", "batch_size": "B", "peak_extra_mib": "peak MiB"}
    columns |= {"memory_ratio_to_whole": "times less", "median_ms": "ms", "ratio_to_whole": "speed"}
    show("A training step in micro-batches", rows, columns)


if __name__ == "__main__":
    typer.run(main)
