"""The live table: what it shows, and that it is in terminals alone."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Sequence
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


def in_a_terminal(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run `negplug …` in a terminal of 100 columns; returns its exit code and what it showed."""
    number, terminal = pty.fork()
    if number == 0:
        os.chdir(folder)
        os.environ.update({"TERM": "xterm", "OMP_NUM_THREADS": "1", **environment})
        os.execv(sys.executable, [sys.executable, "-m", "negplug", *arguments])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 2**16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), shown.decode()


def words_of(shown: str) -> Sequence[str]:
    return re.split(r"\s+", plain(shown.replace("\r", "\n")))


# Its Trainer has Lightning's own progress bar.
FITTED = """
import torch
import lightning.pytorch as pl

class Recipe(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(8, 4)
    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).square().mean()
        self.log("train_loss", loss, prog_bar=True)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = torch.utils.data.TensorDataset(torch.randn(32, 8))
trainer = pl.Trainer(
    accelerator="cpu", max_epochs=2, logger=False, enable_model_summary=False,
    enable_checkpointing=False,
)
trainer.fit(Recipe(), torch.utils.data.DataLoader(data, batch_size=8))
print("the script's last word")
"""


def test_run_shows_a_table_in_place_of_the_bar(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    (tmp_path / "recipe.py").write_text(FITTED)
    code, shown = in_a_terminal(tmp_path, "run", "--sampler", "baseline", "recipe.py")
    assert code == 0, shown
    words = words_of(shown)
    assert {"recipe.py,", "epoch", "train_loss", "elapsed", "left", "1/2"} <= set(words)
    assert "it/s" not in shown
    assert "the script's last word" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


# It has no Trainer, and says itself where it stands, until it is seen.
SAID = """
import json, os, sys, time
for epoch in (1, 2):
    line = {"epoch": epoch, "max_epochs": 4, "metrics": {"train_loss": 0.125 * epoch}}
    with open(os.environ["NEGPLUG_METRICS"], "a") as file:
        print(json.dumps(line), file=file)
    time.sleep(1.2)
"""


def test_sweep_shows_the_run_in_progress(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    (tmp_path / "script.py").write_text(SAID)
    arguments = ("--sampler", "baseline", "--seeds", "1", "--out", "out")
    code, shown = in_a_terminal(tmp_path, "sweep", "script.py", *arguments)
    assert code == 0, shown
    words = words_of(shown)
    assert {"train_loss", "0.125", "2/4", "elapsed", "left", "0/1"} <= set(words)
    assert "[1/1] baseline, seed 0: finished in" in plain(shown)
    assert "baseline, seed 0: started" not in plain(shown)  # what is said where there is no table
    assert not list(tmp_path.glob("out/runs/*/progress.json"))
