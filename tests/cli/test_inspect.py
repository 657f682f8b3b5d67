"""``negplug inspect``: what it prints of a checkpoint, and a script run up to its first loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import negplug
from negplug.cli import app
from negplug.diagnostics.saved.file import read_checkpoint

pytest.importorskip("lightly")
pytest.importorskip("matplotlib")

# A recipe as users write it. Its hyperparameters are of a class of its own, and it says if it
# trains; it would write a file at its end.
RECIPE = """
import sys
from argparse import Namespace
from pathlib import Path
import pytorch_lightning as pl
import torch
from lightly.loss import NTXentLoss

class Options(Namespace):
    pass

class Recipe(pl.LightningModule):
    def __init__(self, options):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(12, 4)
        self.criterion = NTXentLoss(temperature=0.1)
    def training_step(self, batch, batch_idx):
        x = batch[0].flatten(1)
        return self.criterion(self.net(x), self.net(x + 0.1 * torch.randn_like(x)))
    def on_before_optimizer_step(self, optimizer):
        print("trains")
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pl.seed_everything(0)
    images, labels = torch.rand(32, 3, 2, 2), torch.arange(32) % 4
    data = torch.utils.data.TensorDataset(images, labels)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )
    trainer.fit(Recipe(Options(lr=0.1)), torch.utils.data.DataLoader(data, batch_size=8))
    (folder / "done").write_text("trained")
"""


def negplug_in(folder, *arguments, **variables):
    command = [sys.executable, "-m", "negplug", *map(str, arguments)]
    environment = {**os.environ, "NEGPLUG_BACKEND": "torch", **variables}
    how = {"cwd": folder, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command, env=environment, **how)


def said(*arguments):
    """Return what the command printed, in this process."""
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a treated run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.py").write_text(RECIPE)
    options = ("--sampler", "queue(size=16)", "--objective", "decoupled()")
    done = negplug_in(folder, "run", *options, "--temperature", "0.25", "recipe.py", folder)
    assert done.returncode == 0, done.stderr
    (folder / "done").unlink()
    return folder


def checkpoint_in(folder):
    (path,) = folder.rglob("*.ckpt")
    return path


def test_it_says_what_the_state_is(run):
    text = said(checkpoint_in(run)).stdout
    assert "epoch 1, step 8" in text
    for line in (
        "sampler      queue(size=16)",
        "objective    decoupled()",
        "temperature  0.25",
        "batches      the host's own",
        "data set     TensorDataset of 32",
        "rows: 16 of 16 written (100%), width 4, float32",
        "indexes: 16 of 16 known, 8 distinct, most often 24 ×2",
    ):
        assert line in text, line
    found = json.loads(said("--json", checkpoint_in(run)).stdout)
    assert (found["epoch"], found["step"]) == (1, 8)
    (treatment,) = found["treatments"]
    assert treatment["sampler"] == "queue(size=16)"
    assert treatment["losses"][0]["parts"][0]["values"]["rows"]["written"] == 16


def test_a_sheet_is_drawn_without_training_a_step(run):
    before = sorted(path for path in run.rglob("*") if path.is_file())
    command = ("inspect", "--out", "sheets", checkpoint_in(run), "recipe.py", run)
    asked = {"NEGPLUG_SAMPLER": "in_batch()", "NEGPLUG_COMPOSE": "balanced()"}
    done = negplug_in(run, *command, NEGPLUG_METRICS="none.jsonl", **asked)
    assert done.returncode == 0, done.stderr
    assert "trains" not in done.stdout
    title = "criterion with queue(size=16), epoch 1, step 8 of epoch=1-step=8.ckpt"
    assert title in done.stdout
    assert "of the negatives of these 8 anchors" in done.stdout
    sheets = {run / "sheets" / f"epoch=0001-criterion.{end}" for end in ("html", "png")}
    after = {path for path in run.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert after == {*before, *sheets}
    (run / "idle.py").write_text("print('nothing')")
    done = negplug_in(run, "inspect", checkpoint_in(run), "idle.py")
    assert done.returncode == 1
    assert "idle.py ended without a contact sheet: no Trainer" in done.stderr


def test_a_loop_of_ones_own_is_read_and_not_drawn(tmp_path):
    loss_fn = negplug.ContrastiveLoss("uniform(num_negatives=2)", seed=5)
    path = tmp_path / "loss.pt"
    torch.save(loss_fn.state_dict(), path)
    text = said(path).stdout
    assert "loss: step 0, seed 5" in text
    assert "nothing is remembered from step to step" in text
    (tmp_path / "script.py").write_text("")
    refused = said(path, tmp_path / "script.py")
    assert refused.exit_code == 2
    assert "was written by no Trainer" in refused.stderr


def test_the_state_of_several_ranks_is_read_and_not_drawn(run, tmp_path):
    names = ("callbacks", "state_dict", "epoch", "global_step")
    saved = read_checkpoint(checkpoint_in(run))
    state = {name: saved[name] for name in names}
    mine = state["callbacks"]["negplug"]
    mine["ranks"] = [mine["losses"], mine["losses"]]
    mine["losses"] = {}
    path = tmp_path / "two.ckpt"
    torch.save(state, path)
    text = said(path).stdout
    assert "ranks        2" in text
    assert "criterion of rank 1: step 8" in text
    refused = said(path, run / "recipe.py", run)
    assert refused.exit_code == 2
    assert "holds the sampler state of 2 ranks" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.ckpt"], "none.ckpt: No such file"),
        (["recipe.py"], "recipe.py cannot be read as a checkpoint"),
        (["--out", "x", "CHECKPOINT"], "--out has no effect without SCRIPT"),
        (["-m", "CHECKPOINT"], "-m has no effect without SCRIPT"),
        (["--json", "CHECKPOINT", "recipe.py"], "--json has no effect with SCRIPT"),
        (["CHECKPOINT", "other.py"], "SCRIPT 'other.py' is no file"),
        (["--treat", "x", "CHECKPOINT", "recipe.py"], "--treat"),
        (["--out", "recipe.py", "CHECKPOINT", "recipe.py"], "--out recipe.py: File exists"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, monkeypatch, arguments, message):
    monkeypatch.chdir(run)
    given = [str(checkpoint_in(run)) if each == "CHECKPOINT" else each for each in arguments]
    done = said(*given)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_untreated_file_is_said_to_be_one(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    assert "holds no state of a treated loss" in said(tmp_path / "a.ckpt").stderr
