"""Where a fit stands while it runs, told to a display a few times a second.

A display in this process is set by :func:`show_in`; ``negplug run`` does so in a terminal. It takes
the place of the Trainer's own progress bar, where there is one of Lightning's: two would write over
each other. With ``NEGPLUG_PROGRESS=FILE`` in the environment the file holds the last record, as
JSON: so a sweep sees its runs. Otherwise nothing here is made.

This module imports neither torch nor Lightning, because it is loaded in every Trainer's start-up.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

from negplug.hosts.trainer.metrics import scalars
from negplug.hosts.trainer.recording import Record

PROGRESS_VARIABLE = "NEGPLUG_PROGRESS"

# Between two records; each reads the logged values back from their device.
_SECONDS = 0.5


class Display(Protocol):
    """What shows where a fit of this process stands."""

    def start(self) -> None:
        """Begin, as a fit begins."""

    def show(self, record: Record) -> None:
        """Show where it stands."""

    def stop(self) -> None:
        """End, as it ends; also where nothing was begun."""


_display: Display | None = None


def show_in(display: Display | None) -> None:
    """Have the fits of this process shown, or no longer."""
    global _display
    _display = display


def is_shown() -> bool:
    """Return whether the fits of this process are shown."""
    return _display is not None


class _ProgressHooks:
    """The hooks; :func:`progress` joins them with the Lightning in use.

    Nothing here is state of the training, so nothing enters checkpoints.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._shows = False
        self._began = self._told = 0.0
        self._at_first: float | None = None

    def setup(self, trainer: Any, pl_module: object, stage: str) -> None:
        bar = trainer.progress_bar_callback
        if stage != "fit" or _display is None or not trainer.is_global_zero or bar is None:
            return
        if type(bar).__module__.partition(".")[0] in ("lightning", "pytorch_lightning"):
            self._bar, self._shows = bar, True
            bar.disable()

    def on_train_start(self, trainer: Any, pl_module: object) -> None:
        self._began, self._told = time.monotonic(), 0.0
        self._at_first = _fraction(trainer, batches=0)
        if self._shows and _display is not None:
            _display.start()

    def on_train_batch_end(
        self, trainer: Any, pl_module: object, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        now = time.monotonic()
        file = os.environ.get(PROGRESS_VARIABLE)
        if not (self._shows or file) or now - self._told < _SECONDS or not trainer.is_global_zero:
            return
        self._told = now
        record: Record = {
            "event": "train_batch_end",
            "epoch": trainer.current_epoch,
            "max_epochs": trainer.max_epochs,
            "step": trainer.global_step,
            # Of this step alone, which no other rank has to be asked for.
            "metrics": scalars(trainer.callback_metrics),
        }
        left = self._left(trainer, batch_idx + 1, now)
        if left is not None:
            record["left"] = left
        if file:
            _write(record, Path(file))
        if self._shows and _display is not None:
            _display.show(record)

    def on_exception(self, trainer: Any, pl_module: object, exception: BaseException) -> None:
        self._end()

    def teardown(self, trainer: Any, pl_module: object, stage: str) -> None:
        self._end()

    def _left(self, trainer: Any, batches: int, now: float) -> float | None:
        """Return the seconds until the end, if the rest goes as fast as what has been done."""
        fraction = _fraction(trainer, batches)
        if fraction is None or self._at_first is None or fraction <= self._at_first:
            return None
        return (now - self._began) * (1 - fraction) / (fraction - self._at_first)

    def _end(self) -> None:
        if self._shows and _display is not None:
            _display.stop()
        if self._bar is not None:
            self._bar.enable()
        self._bar, self._shows = None, False


def progress(callback_base: type) -> object:
    """Make the callback that tells where one Trainer's fits stand.

    Args:
        callback_base: The ``Callback`` class of the Lightning package whose Trainer asks.
    """

    def reduce(self: object) -> tuple[Callable[[type], object], tuple[type]]:
        # The class is made on the fly, so pickle (spawned ranks, a copied Trainer) makes it anew.
        return progress, (callback_base,)

    members = {"__reduce__": reduce, "__module__": __name__}
    return cast(object, type("Progress", (_ProgressHooks, callback_base), members)())


def _fraction(trainer: Any, batches: int) -> float | None:
    """Return how much of a fit is done, by epochs or by steps, whichever ends it first.

    Args:
        trainer: The Trainer.
        batches: How many batches of the epoch are done.
    """
    found = []
    of_epoch, epochs, steps = trainer.num_training_batches, trainer.max_epochs, trainer.max_steps
    if epochs is not None and epochs > 0 and 0 < of_epoch < float("inf"):
        found.append((trainer.current_epoch + min(batches / of_epoch, 1.0)) / epochs)
    if steps is not None and steps > 0:
        found.append(trainer.global_step / steps)
    return min(max(found), 1.0) if found else None


def _write(record: Record, path: Path) -> None:
    """Put a record in place of the last one, in whole; no display is a reason to end a fit."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(record), encoding="utf-8")
        os.replace(partial, path)
    except OSError:  # a full disk, a folder that is gone
        with suppress(OSError):
            partial.unlink()
