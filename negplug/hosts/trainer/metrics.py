"""Recorder of a run's metrics: what Lightning logged, as JSON lines in one file.

With ``NEGPLUG_METRICS=FILE`` in the environment every Trainer of the process gets the callback
made by :func:`recorder`. ``negplug sweep`` reads the file for its progress bar and results, see
:mod:`negplug.hosts.trainer.recording`. A script that trains without Lightning may append lines of
the same form itself; only ``metrics`` is required in them::

    {"trainer": 0, "event": "fit_end", "epoch": 1, "max_epochs": 1, "step": 8,
     "batch_size": 32, "train_seconds": 2.5, "metrics": {"linear_acc": 0.71}}

``batch_size`` counts the samples of a step's batch on all ranks together, and ``train_seconds``
runs while the fit trains, not while it validates.

This module imports neither torch nor Lightning, because it is loaded in every Trainer's start-up.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from negplug.hosts.trainer.recording import Record, read_recording

METRICS_VARIABLE = "NEGPLUG_METRICS"


class _Trainer(Protocol):
    """What is read from a Lightning Trainer, of either Lightning package."""

    callback_metrics: Mapping[str, object]
    current_epoch: int
    global_step: int
    is_global_zero: bool
    max_epochs: int | None
    sanity_checking: bool
    world_size: int


class _RecorderHooks:
    """The hooks; :func:`recorder` joins them with the Lightning in use.

    Nothing here is state of the training, so nothing enters checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trainer_number: int | None = None
        self._batch_size: int | None = None
        self._watch = _StopWatch()

    def setup(self, trainer: _Trainer, pl_module: object, stage: str) -> None:
        # Now, and not behind the first epoch.
        if trainer.is_global_zero:
            self._append("")

    def on_train_epoch_start(self, trainer: _Trainer, pl_module: object) -> None:
        self._watch.start()

    def on_train_batch_start(
        self, trainer: _Trainer, pl_module: object, batch: Any, *_: Any
    ) -> None:
        if self._batch_size is None:
            self._batch_size = _num_samples(batch) * trainer.world_size

    def on_train_epoch_end(self, trainer: _Trainer, pl_module: object) -> None:
        self._record(trainer, "train_epoch_end")
        self._watch.stop()

    def on_validation_start(self, trainer: _Trainer, pl_module: object) -> None:
        self._watch.pause()

    def on_validation_end(self, trainer: _Trainer, pl_module: object) -> None:
        if not trainer.sanity_checking:
            self._record(trainer, "validation_end")
        self._watch.go_on()

    def on_test_end(self, trainer: _Trainer, pl_module: object) -> None:
        self._record(trainer, "test_end")

    def on_fit_end(self, trainer: _Trainer, pl_module: object) -> None:
        # A module's `on_train_epoch_end` runs after the callbacks': what it logged in the last
        # epoch is seen only here.
        self._record(trainer, "fit_end")

    def _record(self, trainer: _Trainer, event: str) -> None:
        # Reading the metrics may reduce them over the ranks, so every rank has to read them,
        # though only one writes.
        metrics = scalars(trainer.callback_metrics)
        if not trainer.is_global_zero:
            return
        if self._trainer_number is None:
            # Counted through the file: Trainers of one script may live in several processes.
            records = read_recording(self._path).records
            numbers = [record.get("trainer", -1) for record in records]
            self._trainer_number = 1 + max(numbers, default=-1)
        record: Record = {
            "trainer": self._trainer_number,
            "event": event,
            "epoch": trainer.current_epoch,
            "max_epochs": trainer.max_epochs,
            "step": trainer.global_step,
            "metrics": metrics,
        }
        if self._batch_size:
            record["batch_size"] = self._batch_size
            record["train_seconds"] = self._watch.seconds
        self._append(json.dumps(record) + "\n")

    def _append(self, text: str) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ValueError(
                f"{METRICS_VARIABLE} names {str(self._path)[:200]!r}, which cannot be written "
                f"to ({error.strerror}); name a file in a folder that there is, and has room"
            ) from None


class _StopWatch:
    """Counts seconds, with pauses in which others count theirs."""

    def __init__(self) -> None:
        self._counted = 0.0
        self._since: float | None = None
        self._pauses = False

    @property
    def seconds(self) -> float:
        """What has been counted so far."""
        here = 0.0 if self._since is None else time.monotonic() - self._since
        return self._counted + here

    def start(self) -> None:
        self._since = time.monotonic()

    def stop(self) -> None:
        self._counted, self._since = self.seconds, None

    def pause(self) -> None:
        self._pauses = self._since is not None
        self.stop()

    def go_on(self) -> None:
        if self._pauses:
            self.start()


def _num_samples(batch: object) -> int:
    """Return the length of the first array in a batch, 0 if it has none."""
    shape = getattr(batch, "shape", None)
    if isinstance(shape, tuple):
        return int(shape[0]) if shape else 0
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next(filter(None, map(_num_samples, batch)), 0)
    return 0


def recorder(callback_base: type) -> object:
    """Make the callback that records one Trainer's metrics to the file ``NEGPLUG_METRICS``.

    Args:
        callback_base: The ``Callback`` class of the Lightning package whose Trainer asks.

    Returns:
        An instance of a subclass of ``callback_base``.
    """

    def reduce(self: object) -> tuple[Callable[[type], object], tuple[type]]:
        # The class is made on the fly, so pickle (spawned ranks, a copied Trainer) makes it anew.
        return recorder, (callback_base,)

    members = {"__reduce__": reduce, "__module__": __name__}
    made = type("MetricsRecorder", (_RecorderHooks, callback_base), members)
    return cast(object, made(Path(os.environ[METRICS_VARIABLE]).absolute()))


def scalars(logged: Mapping[str, object]) -> dict[str, float]:
    """Keep what is one number: 0-d tensors and plain numbers, in the order of logging."""
    found: dict[str, float] = {}
    for name, value in logged.items():
        try:
            found[name] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            # Not one number: a tensor of several elements, or a metric never updated.
            continue
    return found
