"""The course of a run as its records have it, with and without a Trainer."""

from __future__ import annotations

import pytest

from negplug.cli.sweep.recorded import batch_size_of, step_seconds_of, values_by_epoch
from negplug.hosts.trainer.recording import Record


def record(event: str | None, epoch: int, trainer: int = 0, **metrics: float) -> Record:
    found: Record = {"trainer": trainer, "epoch": epoch, "metrics": metrics}
    return found if event is None else {"event": event, **found}


def test_an_epochs_value_is_that_of_its_end() -> None:
    records = [
        record("validation_end", 0, acc=0.1, loss=9.0),  # the loss is of the epoch before
        record("train_epoch_end", 0, acc=0.1, loss=5.0),
        record("validation_end", 1, acc=0.2, loss=5.0),
        record("train_epoch_end", 1, acc=0.2, loss=4.0),
        record("fit_end", 2, acc=0.2, loss=4.0, late=1.0),
        record("test_end", 2, acc=0.9),
        # A linear probe.
        record("train_epoch_end", 0, trainer=1, acc=0.7, probe=0.7),
    ]
    assert values_by_epoch(records, "acc") == {1: 0.1, 2: 0.2}
    assert values_by_epoch(records, "loss") == {1: 5.0, 2: 4.0}
    assert values_by_epoch(records, "late") == {2: 1.0}
    assert not values_by_epoch(records, "probe")
    assert not values_by_epoch([], "acc")


def test_a_loop_of_ones_own_counts_epochs_or_lines() -> None:
    epochs = [record(None, epoch, acc=0.1 * epoch) for epoch in range(3)]
    assert values_by_epoch(epochs, "acc") == {1: 0.0, 2: 0.1, 3: 0.2}
    lines: list[Record] = [{"metrics": {"loss": 1.0}}, *({"metrics": {"acc": x}} for x in (1, 2))]
    assert values_by_epoch(lines, "acc") == {1: 1, 2: 2}


def test_the_time_of_a_step_leaves_the_first_epoch_out() -> None:
    def at(step: int, seconds: float, trainer: int = 0) -> Record:
        return {"trainer": trainer, "step": step, "train_seconds": seconds, "metrics": {}}

    assert step_seconds_of([at(10, 60.0), at(20, 62.0), at(30, 64.0)]) == pytest.approx(0.2)
    assert step_seconds_of([at(10, 60.0), at(10, 60.0)]) == 6.0
    assert step_seconds_of([at(10, 1.0), at(20, 2.0), at(1, 50.0, 1), at(2, 90.0, 1)]) == 0.1
    assert step_seconds_of([{"step": 3, "metrics": {}}, at(0, 0.0)]) is None


def test_the_first_batch_size_said_counts() -> None:
    sizes: list[Record] = [{"metrics": {}}, {"batch_size": 32}, {"batch_size": 8}]
    assert batch_size_of(sizes) == 32
    assert batch_size_of(sizes[:1]) is None
