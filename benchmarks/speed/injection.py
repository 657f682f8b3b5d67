"""What the injection costs in a real training step, and whether the treated step is slower.

    python benchmarks/speed/injection.py

trains the Lightly recipe on the embedded data and writes ``injection.csv`` to
``benchmarks/results``. Within one run the criterion is now treated with ``in_batch()``, now itself,
in the order ABBA BAAB …, so that both kinds of step have the same model, data and machine; steps
are compared in pairs of neighbours. A step is everything from before the first callback's
``on_train_batch_start`` to after the last one's ``on_train_batch_end``; data loading is between
steps. In an untreated step negplug's callback is not in the Trainer. Inside treated steps are timed

- the hooks of the callback, and
- the adapter: the criterion's call less the loss inside it,

which together are the cost of the injection itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
import typer
from devices import CPU, DeviceOption, now, results_of
from harness import RESULTS, Row, append, machine, quantiles, show
from negplug_lightly import NegativeControl
from training import train

SAMPLER = "in_batch()"
UNTREATED = "Lightly recipe, untreated"
TREATED = f"Lightly recipe, treated: {SAMPLER}"
_WARM_UP = 8  # steps, a whole period of the order
_HOOKS = ("on_train_batch_start", "on_train_batch_end")


class Start(pl.Callback):
    """The first callback: starts the clock of a step, ahead of negplug's hook.

    Args:
        device: What trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.at = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self.at = now(self.device)


class Alternation(pl.Callback):
    """The last callback: stops the clock, and treats the criterion or not for the next step.

    Args:
        start: The first callback.
        control: The one between, present in treated steps alone.

    Attributes:
        steps: Seconds of each step.
        parts: For each step, seconds in the callback's hooks, in the criterion, and in the loss
            that the treated criterion calls.
    """

    def __init__(self, start: Start, control: Any) -> None:
        self.start = start
        self.device = start.device
        self.control = control
        self.steps: list[float] = []
        self.parts: list[dict[str, float]] = []
        self._callbacks: list[pl.Callback] = []
        self._treated = True
        self._now = {"hooks": 0.0, "criterion": 0.0, "loss": 0.0}
        self._called = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Put clocks around what is timed inside a step."""
        self._callbacks = list(trainer.callbacks)
        for hook in _HOOKS:
            setattr(self.control, hook, self._timed("hooks", getattr(self.control, hook)))
        for treated in self.control.injection.losses.values():
            treated.loss.contrast = self._timed("loss", treated.loss.contrast)
        pl_module.criterion.register_forward_pre_hook(self._before_criterion)
        pl_module.criterion.register_forward_hook(self._after_criterion)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Stop the clock and prepare the next step."""
        self.steps.append(now(self.device) - self.start.at)
        self.parts.append(self._now)
        self._now = dict.fromkeys(self._now, 0.0)
        self._switch(trainer, is_treated(len(self.steps)))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the run as negplug's callback expects it."""
        self._switch(trainer, True)

    def _switch(self, trainer: Any, treated: bool) -> None:
        if treated == self._treated:
            return
        self._treated = treated
        injection = self.control.injection
        for site in injection.sites:
            if treated:
                site.treat(injection.losses[site.name])
            else:
                site.restore()
        # A new list: Lightning is going through the present one.
        trainer.callbacks = [
            callback for callback in self._callbacks if treated or callback is not self.control
        ]

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now(self.device)
            result = function(*args, **kwargs)
            self._now[part] += now(self.device) - start
            return result

        return timed

    def _before_criterion(self, *_: Any) -> None:
        self._called = now(self.device)

    def _after_criterion(self, *_: Any) -> None:
        self._now["criterion"] += now(self.device) - self._called


def is_treated(step: int) -> bool:
    """Return whether a step (from 0) is treated: ABBA BAAB, A being treated."""
    return step % 8 in (0, 3, 5, 6)


def measure(batch_size: int, epochs: int, threads: int, device: torch.device) -> list[Row]:
    """Train once and return a row for either kind of step."""
    # A target, since it is no mistake that this loss is untreated in every other step.
    start, control = Start(device), NegativeControl(SAMPLER, target="criterion")
    clock = Alternation(start, control)
    train("small", [start, control, clock], batch_size, epochs, threads, device)
    kinds: dict[bool, list[int]] = {True: [], False: []}
    for step in range(_WARM_UP, len(clock.steps) // 2 * 2):
        kinds[is_treated(step)].append(step)
    # The k-th treated step and the k-th other one are neighbours.
    pairs = zip(kinds[False], kinds[True], strict=True)
    ratios = sorted(clock.steps[untreated] / clock.steps[treated] for untreated, treated in pairs)
    rows: list[Row] = []
    for name, treated in ((UNTREATED, False), (TREATED, True)):
        own = kinds[treated]
        parts = [clock.parts[step] for step in own]
        adapter = [part["criterion"] - part["loss"] for part in parts] if treated else [0.0]
        hooks = [part["hooks"] for part in parts]
        cost = statistics.median(hooks) + statistics.median(adapter)
        step = statistics.median(clock.steps[number] for number in own)
        low, high = median_interval(ratios) if treated else (1.0, 1.0)
        rows.append(
            {
                "question": "injection",
                "competitor": name,
                "batch_size": batch_size,
                **machine(threads, device),
                "rounds": len(own),
                **quantiles([clock.steps[number] for number in own]),
                "criterion_forward_ms": _milliseconds([part["criterion"] for part in parts]),
                "hooks_ms": _milliseconds(hooks),
                "adapter_ms": _milliseconds(adapter),
                "injection_share_percent": round(100 * cost / step, 3),
                "ratio_to_untreated": round(statistics.median(ratios), 4) if treated else 1.0,
                "ratio_low": round(low, 4),
                "ratio_high": round(high, 4),
            }
        )
    return rows


def median_interval(ordered: list[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median, from order statistics.

    Args:
        ordered: Independent values, ascending.
    """
    count = len(ordered)
    # The number of values below the median is binomial(n, 1/2).
    rank = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
    return ordered[rank], ordered[count - 1 - rank]


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 3)


def main(
    batch_size: Annotated[int, typer.Option(help="B")] = 256,
    epochs: Annotated[int, typer.Option(help="of 1,024 images")] = 40,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Time of treated and untreated training steps, and of the injection itself."""
    rows = measure(batch_size, epochs, threads, device)
    append(rows, results_of(results, device))
    columns = {
        "competitor": "step",
        "median_ms": "median ms",
        "criterion_forward_ms": "criterion",
        "hooks_ms": "hooks",
        "adapter_ms": "adapter",
        "injection_share_percent": "share, %",
        "ratio_to_untreated": "untreated ÷",
        "ratio_low": "95 %: from",
        "ratio_high": "to",
    }
    show(f"training step, B = {batch_size}, {rows[0]['rounds']} pairs", rows, columns)


if __name__ == "__main__":
    typer.run(main)
