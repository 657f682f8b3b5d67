"""The live table: what it shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from negplug.cli import live
from negplug.cli.live import LiveTable, RunDisplay, duration, epoch_of, shown_metrics
from negplug.cli.terminal import plain
from negplug.hosts.trainer.recording import Record

RECORD: Record = {
    "event": "train_batch_end",
    "epoch": 2,
    "max_epochs": 10,
    "left": 65.0,
    "metrics": {
        "lr": 0.01,
        "train_loss_step": 2.0,
        "train_loss": 1.23456,
        "negplug/a/hardness": 0.4,
    },
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the table goes by."""
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


def drawn(table: object, width: int = 100) -> list[str]:
    console = Console(width=width, file=open(os.devnull, "w"), record=True)
    console.print(table)
    return console.export_text().splitlines()


def test_a_row_of_epoch_metrics_and_time(clock: list[float]) -> None:
    table = LiveTable("uniform(num_negatives=4), seed 0")
    clock[0] += 12
    table.update(RECORD)
    clock[0] += 5
    lines = drawn(table)
    assert lines[0].strip() == "uniform(num_negatives=4), seed 0"
    words = "\n".join(lines).split()
    assert words[words.index("epoch") :][:6] == [
        *("epoch", "train_loss", "lr", "hardness", "elapsed", "left")
    ]
    assert words[-6:] == ["3/10", "1.235", "0.01", "0.4", "0:17", "1:00"]


@pytest.mark.parametrize("width", [30, 45, 60, 200])
def test_what_does_not_fit_is_left_out_and_nothing_is_cut(width: int) -> None:
    table = LiveTable("baseline")
    table.update(RECORD)
    lines = drawn(table, width)
    assert "…" not in "".join(lines)
    assert "left" in "".join(lines)
    assert ("hardness" in "".join(lines)) == (width >= 60)


def test_a_script_without_a_trainer_is_judged_by_its_epochs(clock: list[float]) -> None:
    table = LiveTable("baseline")
    assert table.seconds_left is None
    clock[0] += 20
    table.update({"epoch": 2, "max_epochs": 6, "metrics": {}})
    assert table.seconds_left == 40
    clock[0] += 15
    assert table.seconds_left == 25
    clock[0] += 100
    assert table.seconds_left == 0


def test_losses_come_first_and_negplugs_own_last() -> None:
    metrics = dict.fromkeys(["negplug/a/b", "acc", "val_loss", "lr", "loss_epoch", "loss"], 0.0)
    assert list(shown_metrics(metrics)) == ["val_loss", "loss", "acc", "lr"]


def test_durations_and_epochs() -> None:
    assert [duration(s) for s in (None, 0, 59.6, 3723)] == ["-", "0:00", "1:00", "1:02:03"]
    records: list[Record] = [{}, {"epoch": 0}, {"epoch": 3, "max_epochs": 3, "event": "fit_end"}]
    assert [epoch_of(record) for record in records] == ["", "1", "3/3"]


def test_a_display_shows_fit_after_fit(tmp_path: Path) -> None:
    with (tmp_path / "shown").open("w") as file:
        display = RunDisplay("recipe.py", Console(file=file, force_terminal=True, width=80))
        display.stop()
        for _ in range(2):
            display.start()
            display.show(RECORD)
            display.stop()
    shown = plain((tmp_path / "shown").read_text())
    assert shown.count("recipe.py") >= 2
    assert "1.235" in shown
