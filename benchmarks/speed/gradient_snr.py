"""What ``GradientSNR`` adds to a training step.

    python benchmarks/speed/gradient_snr.py

trains the Lightly recipe on the embedded data with the callback and writes ``gradient_snr.csv`` to
``benchmarks/results``. A step is everything from the start of a training batch to its end. The
update of the moments is part of every step; the ratio over all parameters is computed in those
that are logged. Both are timed inside the step, so that the rest of the machine hits them alike.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
import typer
from devices import CPU, DeviceOption, now, results_of
from harness import RESULTS, Row, append, machine, quantiles, show
from negplug_lightly import GradientSNR
from training import train

WARM_UP = 5  # allocations, the moments themselves
LOGGED_EVERY = 10


class Clock(pl.Callback):
    """Times each training step, and what ``snr`` takes of it.

    Args:
        snr: The callback, which has to come first in the Trainer.
        device: What trains.
    """

    def __init__(self, snr: GradientSNR, device: torch.device) -> None:
        self.device = device
        self.steps: list[float] = []
        self.updates: list[float] = []
        self.ratios: list[float] = []
        self._start = 0.0
        moments: Any = snr.moments
        moments.snr = self._timed(moments.snr, self.ratios)
        # The hook, for it finds the optimizer's parameters too.
        hook: Any = snr
        hook.on_before_optimizer_step = self._timed(snr.on_before_optimizer_step, self.updates)

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._start = now(self.device)

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop it; this callback comes after the one that logs."""
        self.steps.append(now(self.device) - self._start)

    def _timed(self, method: Any, times: list[float]) -> Any:
        def timed(*args: Any) -> Any:
            start = now(self.device)
            result = method(*args)
            times.append(now(self.device) - start)
            return result

        return timed


def measure(backbone: str, batch_size: int, epochs: int, threads: int, device: torch.device) -> Row:
    """Train with one backbone and return its row."""
    snr = GradientSNR()
    clock = Clock(snr, device)
    logging = {"log_every_n_steps": LOGGED_EVERY}
    model = train(backbone, [snr, clock], batch_size, epochs, threads, device, **logging)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    pairs = list(zip(clock.steps, clock.updates, strict=True))[WARM_UP:]
    update = 1e3 * statistics.median(inside for _, inside in pairs)
    ratio = 1e3 * statistics.median(clock.ratios)
    return {
        "question": "gradient_snr",
        "competitor": backbone,
        "batch_size": batch_size,
        **machine(threads, device),
        "parameters_million": round(millions, 3),
        "rounds": len(pairs),
        **quantiles([whole for whole, _ in pairs]),
        "update_median_ms": round(update, 3),
        "update_share_percent": round(
            100 * statistics.median(inside / whole for whole, inside in pairs), 2
        ),
        "update_ms_per_million": round(update / millions, 3),
        "ratio_median_ms": round(ratio, 3),
        "ratio_ms_per_million": round(ratio / millions, 3),
    }


def main(
    backbone: Annotated[
        list[str] | None, typer.Option(help="small or resnet18; repeat for both")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="B")] = 128,
    epochs: Annotated[int, typer.Option(help="of 1,024 images")] = 8,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Time of training steps, and what the gradients' signal-to-noise ratio takes of it."""
    rows = [measure(name, batch_size, epochs, threads, device) for name in backbone or ["small"]]
    append(rows, results_of(results, device))
    columns = {
        "competitor": "backbone",
        "parameters_million": "parameters, M",
        "median_ms": "step, ms",
        "update_median_ms": "update, ms",
        "update_share_percent": "share, %",
        "update_ms_per_million": "update, ms/M",
        "ratio_median_ms": "ratio, ms",
        "ratio_ms_per_million": "ratio, ms/M",
    }
    show(f"training step, B = {batch_size}", rows, columns)


if __name__ == "__main__":
    typer.run(main)
