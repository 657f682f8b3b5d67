"""`negplug recommend` as a process: stopped in the middle, it goes on, and what is behind ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from recommending import prepared, starts
from sweeps import wait_for
from systems import has_ended, skip_without_process_groups
from typer.testing import CliRunner

from negplug.cli import app

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

# The command with a short list of its own, and runs that take no time.
COMMAND = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {support!r})
from recommending import child_command
from negplug.cli import main as negplug
from negplug.cli.recommend import main
from negplug.cli.recommend.choice import Choice

names = ("memory_bank()", "hard(num_negatives=2)")
main.choices_for = lambda size: tuple(map(Choice, names))
main.Bench = partial(
    main.Bench, command_of=lambda run, _: child_command(Path.cwd(), run.sampler, run.seed)
)
negplug()
"""


def test_it_goes_on_where_it_was_stopped_and_ends_what_is_behind(tmp_path: Path) -> None:
    skip_without_process_groups()
    folder = prepared(tmp_path, {"queue": 0.1, "memory_bank": 0.3, "hard": -0.1})
    support = str(Path(__file__).parents[1] / "support")
    command = [sys.executable, "-c", COMMAND.format(support=support), "recommend", "train.py"]
    command += ["--metric", "val_acc", "--out", "out", "--seeds", "2", "--also", "queue(size=8)"]
    (folder / "train.py").touch()
    start = partial(
        subprocess.Popen,
        [*command, "--", "{seed}"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for name in ("memory_bank-0", "hard-0"):
        (folder / "control" / f"hang-{name}").touch()
    first = start()
    wait_for(lambda: "memory_bank-0" in starts(folder))
    wait_for(lambda: '"epoch": 4' in recorded(folder, "memory_bank-seed0"))
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 130
    assert errors == "negplug: stopped; the same command goes on from here.\n"

    # Its second attempt comes out lower than its first, which competes no more.
    (folder / "control" / "hang-memory_bank-0").unlink()
    second = start()
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    line = output.splitlines()[-1]
    assert line.startswith("negplug run --sampler 'memory_bank()' train.py 0  # val_acc +0.3")
    assert line.endswith("2 seeds); 1.00 times the time per step")
    # What hung was ended, not waited for.
    assert "3 choices for batches of 32; at most 10 runs, and the untouched one took " in output
    assert "hard(num_negatives=2), seed 0: stopped after 1 of 9 epochs, not among" in output
    (hung,) = (folder / "starts").glob("hard-0-*")
    assert has_ended(int(hung.name.rpartition("-")[2]))
    expected = ["baseline-0", "queue-0", "memory_bank-0", "memory_bank-0", "hard-0"]
    expected += ["queue-1", "memory_bank-1"]
    expected += ["baseline-2", "memory_bank-2", "baseline-3", "memory_bank-3"]
    assert starts(folder) == sorted(expected)
    page = (folder / "out" / "report.html").read_text()
    assert "<title>negplug recommend</title>" in page
    assert page.count("<img") == 2
    assert "--also &#x27;queue(size=8)&#x27;" in page or "--also 'queue(size=8)'" in page


def recorded(folder: Path, run: str) -> str:
    file = folder / "out" / "runs" / run / "metrics.jsonl"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.py"], "SCRIPT 'none.py' is no file; check its name."),
        (["train.py", "--study", "a"], "--study 'a' has no effect without --storage"),
        (["train.py", "--timeout", "0"], "--timeout 0 is not a positive number of seconds"),
        (["train.py", "--out", "train.py"], "--out train.py is no folder; give another."),
        (["train.py", "--also", "baseline"], "--also 'baseline' is what every choice is compared"),
        (["train.py", "--also", "uniform()"], "--also 'uniform()': uniform(): missing a"),
        (["train.py", "--also", "queues()"], "--also 'queues()': unknown sampler 'queues'; did "),
        (["train.py", "--also", "hard(num_negatives={M})"], "--also 'hard(num_negatives={M})': "),
    ],
)
def test_a_fault_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    skip_without_process_groups()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # these stay those of the tests
    (tmp_path / "train.py").touch()
    done = CliRunner().invoke(app, ["recommend", "--metric", "acc", "--out", "out", *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"negplug: {sentence}")
    marked = "    ^" in done.stderr  # where in an expression
    assert done.stderr.count("\n") == 1 + 2 * marked


def test_a_metric_of_the_test_split_is_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_process_groups()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "train.py").touch()
    (tmp_path / "out").touch()
    for metric, doubted in (("test_acc", True), ("knn/test", True), ("latest_acc", False)):
        arguments = ["recommend", "--metric", metric, "--out", "out", "train.py"]
        done = CliRunner().invoke(app, arguments)
        said = f"--metric {metric!r} looks like one of the test split" in done.stderr
        assert said == doubted
