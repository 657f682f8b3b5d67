"""The share of a real training step that negatives take, for each sampler.

    python benchmarks/speed/step_share.py

trains the Lightly recipe on the embedded data for a few dozen steps with each sampler, and writes
``step_share.csv`` to ``benchmarks/results``. A step is everything from the start of a training
batch to its end: forward, loss, backward, optimizer and what samplers take in. Sampling is the time
inside the sampler, its updates included; for ``recompute`` that is mostly the embedding of images
outside the batch. ``baseline`` is the recipe untouched.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
import typer
from devices import CPU, DeviceOption, now, results_of
from harness import RESULTS, Row, append, machine, quantiles, show
from negplug_lightly import NegativeControl
from training import train

SAMPLERS = (
    "baseline",
    "in_batch()",
    "uniform(num_negatives=16)",
    "queue(size=4096)",
    "gumbel_max(num_negatives=16, source=queue(size=4096))",
    "emc2(out_of_batch='drop')",
    "emc2(out_of_batch='cached')",
    "emc2(out_of_batch='recompute')",
    "isir(out_of_batch='drop')",
    "isir(out_of_batch='cached')",
    "isir(out_of_batch='recompute')",
)
WARM_UP = 5  # first visits, allocations, compilation


class Clock(pl.Callback):
    """Times each training step, and the time that its samplers take inside it."""

    def __init__(self, control: NegativeControl | None, device: torch.device) -> None:
        self.control = control
        self.device = device
        self.steps: list[float] = []
        self.sampling: list[float] = []
        self._inside = 0.0
        self._start = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Wrap the samplers' own methods."""
        for sampler in self._samplers():
            sampler.forward = self._timed(sampler.forward)
            sampler.flush = self._timed(sampler.flush)

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._inside, self._start = 0.0, now(self.device)

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop it; this callback comes after the one that closes the step."""
        self.steps.append(now(self.device) - self._start)
        self.sampling.append(self._inside)

    def _samplers(self) -> Iterator[Any]:
        if self.control is not None and self.control.injection is not None:
            for treated in self.control.injection.losses.values():
                yield treated.loss.sampler  # its sources are called inside it

    def _timed(self, method: Any) -> Any:
        def timed(*args: Any) -> Any:
            start = now(self.device)
            try:
                return method(*args)
            finally:
                self._inside += now(self.device) - start

        return timed


def measure(sampler: str, batch_size: int, epochs: int, threads: int, device: torch.device) -> Row:
    """Train with one sampler and return its row."""
    control = None if sampler == "baseline" else NegativeControl(sampler)
    clock = Clock(control, device)
    callbacks = [clock] if control is None else [control, clock]
    train("small", callbacks, batch_size, epochs, threads, device)
    pairs = list(zip(clock.steps, clock.sampling, strict=True))[WARM_UP:]
    shares = sorted(inside / whole for whole, inside in pairs)
    return {
        "question": "step_share",
        "competitor": sampler,
        "batch_size": batch_size,
        **machine(threads, device),
        "rounds": len(pairs),
        **quantiles([whole for whole, _ in pairs]),
        "sampling_median_ms": round(1e3 * statistics.median(inside for _, inside in pairs), 3),
        "sampling_share_percent": round(100 * statistics.median(shares), 2),
    }


def main(
    batch_size: Annotated[int, typer.Option(help="B")] = 256,
    epochs: Annotated[int, typer.Option(help="of 1,024 images, for each sampler")] = 8,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    sampler: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Time of training steps, and the samplers' share of it."""
    rows = [measure(name, batch_size, epochs, threads, device) for name in sampler or SAMPLERS]
    append(rows, results_of(results, device))
    columns = {
        "competitor": "sampler",
        "median_ms": "step, ms",
        "q20_ms": "20 %",
        "q80_ms": "80 %",
        "sampling_median_ms": "sampling, ms",
        "sampling_share_percent": "share, %",
    }
    show(f"training step, B = {batch_size}", rows, columns)


if __name__ == "__main__":
    typer.run(main)
