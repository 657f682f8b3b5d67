"""`negplug sweep --compose`: composers of batches are compared, each with every sampler."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import Workplace, refused

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

# Logs an accuracy that depends on the composer.
SCRIPT = """
import json, os, sys
from pathlib import Path
from negplug.hosts import call_record

call_record.record_call()
compose = os.environ.get("NEGPLUG_COMPOSE", "")
Path("starts", f"{os.environ['NEGPLUG_SAMPLER']}+{compose}-{os.getpid()}").touch()
with open(os.environ["NEGPLUG_METRICS"], "a") as file:
    print(json.dumps({"step": 1, "metrics": {"linear_acc": 0.5 + len(compose) / 100}}), file=file)
"""
CLUSTERED = "clustered(num_neighbors=3)"


def test_a_composer_is_a_further_choice_in_table_pictures_and_study(tmp_path: Path) -> None:
    place = Workplace(tmp_path, SCRIPT)
    done = place.sweep("--sampler", "in_batch()", "--compose", CLUSTERED, "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert place.starts() == [f"in_batch()+{CLUSTERED}"]
    assert [(row["sampler"], row["compose"], row["linear_acc"]) for row in place.rows()] == [
        ("in_batch()", CLUSTERED, "0.76"),
    ]
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"| `in_batch() with {CLUSTERED}` | 0.7600 |" in report
    assert f"--sampler 'in_batch()' --compose '{CLUSTERED}' --seeds 1" in report
    assert_goes_on(place)


def assert_goes_on(place: Workplace) -> None:
    """See that a sweep which compares more runs nothing again."""
    from negplug.cli.sweep.grid import expand
    from negplug.cli.sweep.study import SweepStudy
    from negplug.cli.sweep.trials import Result, Run, Settings

    settings = Settings(str(place.path / "script.py"), ("{seed}",), None, None)
    study = SweepStudy(place.path / "out" / "study.db", "sweep", settings)
    done: list[Run] = []

    def execute(run: Run) -> Result:
        done.append(run)
        return Result(run, 1.0, {})

    study.work(expand(["in_batch()"], settings, {}, 1, ["none", CLUSTERED]), execute, print)
    assert done == [Run("in_batch()", 0)]
    assert {result.run.compose for result in study.results()} == {"", CLUSTERED}


def test_the_command_of_a_study_names_every_composer() -> None:
    from negplug.cli.sweep.command import sweep_command
    from negplug.cli.sweep.trials import Run, Settings

    settings = Settings("script.py", (), None, None)
    runs = [Run("baseline", 0), *(Run("in_batch()", 0, (), each) for each in ("", CLUSTERED))]
    command = sweep_command(Path("script.py"), settings, runs, [])
    assert f"--compose none --compose '{CLUSTERED}'" in command
    assert "--compose" not in sweep_command(Path("script.py"), settings, runs[:2], [])


def test_the_command_of_a_study_has_the_variables_that_its_runs_got(monkeypatch) -> None:
    from negplug.cli.sweep.command import environment_of_runs, sweep_command
    from negplug.cli.sweep.trials import Run, Settings

    assert environment_of_runs() == ()
    monkeypatch.setenv("NEGPLUG_TREAT", "__main__:My NCE=infonce")
    monkeypatch.setenv("NEGPLUG_IGNORE", " ")
    settings = Settings("script.py", (), None, None, environment=environment_of_runs())
    command = sweep_command(Path("script.py"), settings, [Run("baseline", 0)], [])
    assert command.startswith("NEGPLUG_TREAT='__main__:My NCE=infonce' negplug sweep script.py ")


def test_every_sampler_but_the_baseline_runs_with_each_composer() -> None:
    from negplug.cli.sweep.command import run_command, run_folder
    from negplug.cli.sweep.grid import expand
    from negplug.cli.sweep.trials import Settings

    settings = Settings("script.py", ("lr={lr}",), None, None)
    grid = {"k": ("3", "5"), "lr": ("0.1", "0.2")}
    samplers = ["baseline", "in_batch()", "hard( 2 )"]
    composers = ["none", "clustered({k})"]
    runs = expand(samplers, settings, grid, 2, composers)
    assert len({run_folder(run) for run in runs}) == len(set(runs)) == len(runs)
    made = {(run.sampler, run.compose, *dict(run.point).values()) for run in runs}
    composed = ["", "clustered(3)", "clustered(5)"]
    treated = {(s, c, lr) for s in ("in_batch()", "hard(2)") for c in composed for lr in grid["lr"]}
    assert made == treated | {("baseline", "", lr) for lr in grid["lr"]}
    assert len(runs) == 2 * len(made)
    for run in runs:
        options = run_command(run, settings)
        given = options[options.index("--compose") + 1] if "--compose" in options else ""
        assert given == run.compose
    assert "in_batch() with clustered(3), lr=0.1, seed 0" in map(str, runs)


def test_a_study_from_before_there_were_composers_goes_on() -> None:
    from negplug.cli.sweep.trials import Run, run_of

    old = {"sampler": "in_batch()", "seed": 1, "point": {"lr": "1"}}
    assert run_of(old) == Run("in_batch()", 1, (("lr", "1"),))
    assert run_of(old | {"compose": CLUSTERED}) != run_of(old)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sampler", "hard(2)", "--compose", "walk()"], "--compose 'walk()': unknown composer"),
        (["--sampler", "hard(2)", "--compose", "clustered({k})"], "{k} has no values; add --grid"),
        (["--sampler", "baseline", "--compose", CLUSTERED], "--compose has no effect with"),
        (["--sampler", "hard(2)", "--grid", "compose=1,2"], "'compose' is taken; choose another"),
    ],
)
def test_mistakes_are_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    assert sentence in refused(monkeypatch, tmp_path, *arguments)
