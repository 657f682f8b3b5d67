"""`negplug run`: real scripts in real processes, and the metrics that a run records."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from negplug.hosts.trainer.recording import read_recording

SHOW = """
import json, os, sys
names = ("NEGPLUG_SAMPLER", "NEGPLUG_OBJECTIVE", "NEGPLUG_TEMPERATURE")
print(json.dumps({
    "argv": sys.argv[1:], "script": os.path.abspath(sys.argv[0]), "name": __name__,
    "file": __file__, "path": sys.path[0], "env": [os.environ.get(name) for name in names],
}))
"""

CALLED = "from negplug.hosts import call_record; call_record.record_call()\n"

# A recipe as users write it: it knows nothing of negplug. `late` is logged in the module's own
# `on_train_epoch_end`, which runs after every callback's.
RECIPE = """
import sys
import torch
import lightning.pytorch as pl
from lightly.loss import NTXentLoss

class Recipe(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(8, 4)
        self.criterion = NTXentLoss(temperature=0.1)
    def training_step(self, batch, batch_idx):
        x = batch[0]
        loss = self.criterion(self.net(x), self.net(x + 0.1 * torch.randn_like(x)))
        self.log("train_loss", loss, on_epoch=True, sync_dist=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val_acc", 0.5, sync_dist=True)
    def on_train_epoch_end(self):
        self.log("late", float(self.current_epoch), sync_dist=True)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    data = torch.utils.data.TensorDataset(torch.randn(32, 8))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    trainer = pl.Trainer(
        accelerator="cpu", devices=int(sys.argv[1]), strategy=sys.argv[2], max_epochs=2,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=sys.argv[3],
    )
    trainer.fit(Recipe(), loader, loader)
"""


# The loss is called in a process that the script spawns, as Lightning's ddp_spawn does.
SPAWNING = """
import multiprocessing
from negplug.hosts import call_record

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=call_record.record_call)
    process.start()
    process.join()
"""


def negplug_run(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `negplug run …` in its own process, in the folder `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "negplug", "run", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = "torch", "lightning", "optuna", "matplotlib", "numpy"
    code = f"import sys, negplug.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_script_runs_as_under_python(tmp_path: Path) -> None:
    script = write(tmp_path / "folder" / "show.py", SHOW)
    arguments = ["--sampler", "mine", "-h", "--", "--seed=3"]
    done = negplug_run(tmp_path, "--sampler", "baseline", "folder/show.py", *arguments)
    plain = subprocess.run(
        [sys.executable, "folder/show.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.returncode == 0
    seen = json.loads(done.stdout)
    assert seen == json.loads(plain.stdout)
    assert seen["argv"] == arguments
    assert seen["file"] == str(script)


def test_a_module_runs_as_under_python(tmp_path: Path) -> None:
    write(tmp_path / "show.py", SHOW)
    done = negplug_run(tmp_path, "--sampler", "baseline", "-m", "show", "x")
    assert json.loads(done.stdout)["argv"] == ["x"]
    assert negplug_run(tmp_path, "--sampler", "baseline", "-m", "shw").returncode == 2


def test_a_folder_runs_as_under_python(tmp_path: Path) -> None:
    write(tmp_path / "show" / "beside.py", "")
    write(tmp_path / "show" / "__main__.py", "import beside\n" + SHOW)
    done = negplug_run(tmp_path, "--sampler", "baseline", "show", "x")
    assert json.loads(done.stdout)["argv"] == ["x"]
    (tmp_path / "show" / "__main__.py").unlink()
    assert negplug_run(tmp_path, "--sampler", "baseline", "show").returncode == 2


def test_the_treatment_is_in_the_environment(tmp_path: Path) -> None:
    write(tmp_path / "show.py", SHOW + CALLED)
    treatment = ["--sampler", "uniform(num_negatives=4)", "--temperature", "0.2"]
    done = negplug_run(tmp_path, *treatment, "show.py", NEGPLUG_OBJECTIVE="decoupled()")
    assert done.returncode == 0, done.stderr
    # An objective that the command line does not name is the host's own, and that is said.
    assert "NEGPLUG_OBJECTIVE='decoupled()' has no effect here" in done.stderr
    assert done.stderr.count("has no effect") == 1
    assert json.loads(done.stdout)["env"] == ["uniform(num_negatives=4)", None, "0.2"]


def test_baseline_leaves_the_host_untouched(tmp_path: Path) -> None:
    write(tmp_path / "show.py", SHOW)
    done = negplug_run(tmp_path, "--sampler", "baseline", "show.py", NEGPLUG_SAMPLER="gather()")
    assert done.returncode == 0
    assert json.loads(done.stdout)["env"] == [None, None, None]


@pytest.mark.parametrize(
    "source",
    [
        "def fit():\n    try:\n        {}['x']\n    except KeyError as e:\n"
        "        raise RuntimeError('boom') from e\nfit()\n",
        "def f(:\n",
        "import sys; sys.exit('bad words')",
        "import sys; sys.exit(7)",
    ],
    ids=["exception", "syntax error", "exit with words", "exit with a code"],
)
def test_a_failing_script_fails_as_under_python(tmp_path: Path, source: str) -> None:
    script = write(tmp_path / "failing.py", source)
    done = negplug_run(tmp_path, "--sampler", "baseline", str(script))
    plain = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == plain.returncode
    assert done.stderr == plain.stderr


@pytest.mark.parametrize("ending", ["", "import sys; sys.exit(0)"])
def test_no_treated_loss_is_an_error(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "plain.py", f"print('done')\n{ending}")
    done = negplug_run(tmp_path, "--sampler", "in_batch()", "plain.py")
    assert done.stdout == "done\n"
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "without calling any contrastive loss" in done.stderr


def test_a_treated_loss_called_in_a_child_counts(tmp_path: Path) -> None:
    write(tmp_path / "spawning.py", SPAWNING)
    folder = tmp_path / "temporary"
    folder.mkdir()
    arguments = ["--sampler", "in_batch()", "spawning.py"]
    done = negplug_run(tmp_path, *arguments, TMPDIR=str(folder))
    assert done.returncode == 0, done.stderr
    # The record is gone.
    assert not list(folder.iterdir())


def test_a_process_enters_the_record_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from negplug.hosts import call_record

    monkeypatch.setattr(call_record, "_recorded", "")
    with call_record.opened() as calls:
        assert calls() == (False, [])
        call_record.record_call(1, 3)
        call_record.record_call(2, 3)
        assert calls() == (True, [0, 2])
        assert Path(os.environ[call_record.RECORD_VARIABLE]).read_bytes() == b"1 3\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sampler", "unifrom(num_negatives=4)", "touch.py"], "unifrom"),
        (["--sampler", "in_batch()", "--temperature", "-1", "touch.py"], "--temperature"),
        (["--sampler", "in_batch()", "--objective", "infonec()", "touch.py"], "infonec"),
        (["--sampler", "baseline", "--objective", "infonce()", "touch.py"], "--objective"),
        (["--sampler", "baseline", "--accumulate", "8", "touch.py"], "--accumulate"),
        (["--sampler", "baseline", "--compose", "clustered()", "touch.py"], "--compose"),
        (["--sampler", "in_batch()", "--compose", "clustred()", "touch.py"], "clustred"),
        (["--sampler", "in_batch()", "missing.py"], "missing.py"),
    ],
)
def test_a_wrong_argument_stops_before_the_script(
    tmp_path: Path, arguments: list[str], named: str
) -> None:
    write(tmp_path / "touch.py", "open('started', 'w')")
    done = negplug_run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("negplug: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "started").exists()


def test_the_seed_reaches_every_generator(tmp_path: Path) -> None:
    import numpy
    import torch

    source = (
        "import os, random, numpy, torch\n"
        "seed = os.environ['PL_GLOBAL_SEED']\n"
        "print(random.random(), numpy.random.rand(), torch.rand(1).item(), seed)"
    )
    write(tmp_path / "draw.py", source)
    done = negplug_run(tmp_path, "--sampler", "baseline", "--seed", "3", "draw.py")
    drawn = [
        random.Random(3).random(),
        numpy.random.RandomState(3).rand(),
        torch.rand(1, generator=torch.Generator().manual_seed(3)).item(),
        3.0,
    ]
    assert [float(word) for word in done.stdout.split()] == drawn


@pytest.mark.parametrize("sampler", ["baseline", "uniform(num_negatives=4)"])
def test_a_lightning_recipe_is_recorded(tmp_path: Path, sampler: str) -> None:
    pytest.importorskip("lightly")
    import torch

    write(tmp_path / "recipe.py", RECIPE)
    file = tmp_path / "metrics.jsonl"
    arguments = ["--sampler", sampler, "recipe.py", "1", "auto", "."]
    done = negplug_run(tmp_path, *arguments, NEGPLUG_METRICS=str(file))
    assert done.returncode == 0, done.stderr
    recording = read_recording(file)
    assert not recording.faults
    records = recording.records
    events = ["validation_end", "train_epoch_end"] * 2 + ["fit_end"]
    assert [record["event"] for record in records] == events
    assert [record["epoch"] for record in records] == [0, 0, 1, 1, 2]
    assert {record["trainer"] for record in records} == {0}
    assert records[-1]["step"] == 8
    assert {record["batch_size"] for record in records} == {8}
    seconds = [record["train_seconds"] for record in records]
    assert 0 < seconds[0] <= seconds[1] < seconds[2] <= seconds[3] <= seconds[4]
    final = recording.final_metrics()
    assert final["val_acc"] == 0.5
    assert final["late"] == 1.0
    assert final["train_loss"] > 0
    # The recorder leaves nothing in checkpoints.
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    callbacks = torch.load(checkpoint, weights_only=True)["callbacks"]
    assert not [key for key in callbacks if "Recorder" in key]


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_other_ranks_are_treated_and_recorded_once(tmp_path: Path, strategy: str) -> None:
    pytest.importorskip("lightly")
    write(tmp_path / "recipe.py", RECIPE)
    file = tmp_path / "metrics.jsonl"
    arguments = ["--sampler", "in_batch()", "--seed", "1", "recipe.py", "2", strategy, "."]
    done = negplug_run(tmp_path, *arguments, NEGPLUG_METRICS=str(file))
    assert done.returncode == 0, done.stderr
    recording = read_recording(file)
    assert [record["event"] for record in recording.records].count("fit_end") == 1
    assert {record["batch_size"] for record in recording.records} == {16}  # of both ranks
    assert recording.final_metrics()["val_acc"] == 0.5
