"""The live table in a terminal, which `run` and `sweep` draw it in."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from negplug.cli.terminal import plain

fcntl = pytest.importorskip("fcntl", reason="this system has no pseudo-terminals")
pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
termios = pytest.importorskip("termios", reason="this system has no pseudo-terminals")


def in_a_terminal(
    folder: Path, *arguments: str, awaited: str | None = None, **environment: str
) -> tuple[int, str]:
    """Run `negplug …` in a terminal of 100 columns; returns its exit code and what it showed.

    The file `seen` is made in its folder once it has shown what is ``awaited``.
    """
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
        if awaited is not None and awaited in words_of(shown.decode(errors="replace")):
            (folder / "seen").touch()
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
deadline = time.monotonic() + 120
for epoch in (1, 2):
    line = {"epoch": epoch, "max_epochs": 4, "metrics": {"train_loss": 0.125 * epoch}}
    with open(os.environ["NEGPLUG_METRICS"], "a") as file:
        print(json.dumps(line), file=file)
    time.sleep(1.2)  # so that the table is drawn more than once
while not os.path.exists("seen") and time.monotonic() < deadline:
    time.sleep(0.05)
"""


def test_sweep_shows_the_run_in_progress(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("matplotlib")
    (tmp_path / "script.py").write_text(SAID)
    arguments = ("--sampler", "baseline", "--seeds", "1", "--out", "out")
    code, shown = in_a_terminal(tmp_path, "sweep", "script.py", *arguments, awaited="2/4")
    assert code == 0, shown
    words = words_of(shown)
    assert {"train_loss", "2/4", "elapsed", "left", "0/1"} <= set(words)
    assert "[1/1] baseline, seed 0: finished in" in plain(shown)
    assert "baseline, seed 0: started" not in plain(shown)  # what is said where there is no table
    assert not list(tmp_path.glob("out/runs/*/progress.json"))
