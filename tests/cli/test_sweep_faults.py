"""Sweeps in a hostile world: every fault is one sentence, and the same command goes on after it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from sweeps import Workplace, wait_for
from systems import kills, skip_without_process_groups

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

# Each seed does something else to the sweep.
HOSTILE = """
import os, sys
seed = sys.argv[1]
with open(os.environ["NEGPLUG_METRICS"], "ab") as file:
    file.write(b'{"epoch": null, "metrics": {"acc": 0.5, "none": null, "cost $^$": 1}}\\n')
    file.write({"0": b'{"metrics": 3}\\n', "1": b"\\xff\\n"}.get(seed, b"") + b'{"metrics": {"acc')
if seed == "1":
    print("\\x1b[31m" + "x" * 10**7 + "\\x1b[0m", end="")
    raise SystemExit("```out of luck")
"""

QUIET = """
import os, sys
with open(os.environ["NEGPLUG_METRICS"], "a") as file:
    print('{"metrics": {"acc": 0.5}}', file=file)
"""


def one_sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the sentence with which a command has ended."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("negplug: --")
    assert len(line) < 800
    return line


def test_hostile_runs_are_told_apart_and_the_report_is_written(tmp_path: Path) -> None:
    place = Workplace(tmp_path, HOSTILE)
    arguments = ("--sampler", "baseline", "--seeds", "2", "--timeout", "600")
    done = place.sweep(*arguments, "--metric", "cost $^$")
    assert done.returncode == 1
    assert "1 run failed; the same command retries what failed." in done.stderr
    assert "exit code 1, see" in done.stderr
    assert len(done.stderr) < 8_000
    assert "\x1b" not in done.stdout + done.stderr
    for fault in (
        "line 1: 'none': None is no name and number",
        "line 2: metrics is 3, no names and numbers",
        "line 3 is no record: ",
    ):
        assert f"baseline, seed 0: metrics.jsonl, {fault}" in done.stdout
    assert [(row["acc"], row["cost $^$"]) for row in place.rows()] == [("0.5", "1")]
    report = (place.path / "out" / "report.md").read_text()
    assert "--timeout 600" in report
    assert "````text\nexit code 1" in report
    assert len(report) < 10_000
    assert (place.path / "out" / "plot.png").exists()
    stored = (place.path / "out" / "study.db").stat().st_size
    assert stored < 10**6
    # What is in the study is good for a restart, which no run can be quick enough for.
    done = place.sweep("--sampler", "baseline", "--seeds", "2", "--timeout", "0.01")
    assert "1 of 2 runs were finished before" in done.stdout
    assert "baseline, seed 1 failed with no end after 0.01 s, see" in done.stderr


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that calls `negplug sweep` in this process, where no run starts."""
    from typer.testing import CliRunner

    from negplug.cli import app

    skip_without_process_groups()
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text(QUIET)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # of the tests' process

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sweep", "script.py", "--sampler", "baseline", "--seeds", "1", *arguments]
        done = CliRunner().invoke(app, command)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)

    return call


@pytest.mark.parametrize(
    ("out", "expected", "code"),
    [
        ("file", "--out file is no folder; give another.", 2),
        ("file/inside", "Not a directory", 1),
        ("taken", "study.db: Is a directory", 1),
        ("piped", "study.db is no file; move it away.", 2),
        ("/proc/negplug", "/proc/negplug: ", 1),
        ("n" * 300, "File name too long", 1),
    ],
)
def test_what_is_no_folder_to_write_to_is_one_sentence(invoke, out, expected, code) -> None:
    Path("file").write_text("precious")
    Path("taken", "study.db").mkdir(parents=True)
    Path("piped").mkdir()
    os.mkfifo("piped/study.db")
    assert expected in one_sentence(invoke("--out", out), code)
    assert Path("file").read_text() == "precious"


def test_links_in_a_circle_are_one_sentence(invoke) -> None:
    os.symlink("two", "one")
    os.symlink("one", "two")
    said = one_sentence(invoke("--out", "one", "--storage", "sqlite:///study.db"), 1)
    assert said.startswith("negplug: --out one: one: ")


@pytest.mark.parametrize(
    "url",
    ["postgresql+no_such_driver://localhost/x", "no url", "mysql://host:port/x", "sqlite:////a/b"],
)
def test_a_storage_that_is_not_there_is_one_sentence(invoke, monkeypatch, url: str) -> None:
    from negplug.cli.sweep import storage

    monkeypatch.setattr(storage, "_PATIENCE_SECONDS", 0)
    assert "the storage cannot be opened (" in one_sentence(
        invoke("--out", "o", "--storage", url), 2
    )


@pytest.mark.parametrize("timeout", ["0", "-3", "nan"])
def test_a_time_limit_is_a_positive_number(invoke, timeout: str) -> None:
    done = invoke("--out", "out", "--timeout", timeout)
    assert f"--timeout {timeout} is not a positive number" in one_sentence(done, 2)


# The file of the study may grow no more: what a disk is that is full.
FULL = """
import os, resource
from pathlib import Path
import typer
from negplug.cli.sweep.faults import one_sentence
from negplug.cli.sweep.results import write_csv
from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy
from negplug.cli.sweep.summary import Summary

out, run = Path("out"), Run("baseline", 0)
out.mkdir()

def sweep():
    with one_sentence(out, "--out out"):
        study = SweepStudy(out / "study.db", "sweep", Settings("a.py", (), None, None))
        metrics = {f"metric_{number}": 0.5 for number in range(10_000)}
        study.work([run], lambda run: Result(run, 1.0, metrics), print)
        write_csv(Summary(study.results(), []), out / "results.csv")

SweepStudy(out / "study.db", "sweep", Settings("a.py", (), None, None)).enqueue([run])
size, hard = os.path.getsize("out/study.db"), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for room in (0, 4_000_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        sweep()
    except typer.Exit as leaving:
        print("left with", leaving.exit_code)
print(len(Path("out/results.csv").read_text().splitlines()), os.listdir("out"))
"""


def test_a_full_disk_is_one_sentence_and_the_sweep_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system has no limit of a file's size")
    done = subprocess.run(
        [sys.executable, "-c", FULL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "--out out: the study cannot be read or written (" in one_sentence(done, 0)
    left, files = done.stdout.splitlines()
    assert left == "left with 1"
    assert files.startswith("2 [")
    assert sorted(ast.literal_eval(files[2:])) == ["results.csv", "study.db"]


@kills
def test_a_sweep_that_is_killed_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    script = (
        "from negplug.hosts import call_record; call_record.record_call()\n"
        "import pathlib, time; pathlib.Path('started').touch(); time.sleep(600)\n"
    )
    place = Workplace(tmp_path / "place", script)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    started = place.path / "started"
    process = place.start("--sampler", "in_batch()", "--seeds", "1", TMPDIR=str(temporary))
    wait_for(started.exists)
    process.kill()
    process.communicate(timeout=240)
    wait_for(partial(is_empty, temporary))


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())
