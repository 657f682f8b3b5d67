"""The study of a sweep: what it remembers, and how runs are taken from it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], "-"),
        ([0.17], "0.1700"),
        ([34012.4], "34012"),
        ([0.0], "0"),
        ([2.0, 2.0], "2.000 ± 0"),
        ([0.5, 0.6], "0.550 ± 0.071"),
        ([1000.0, 3000.0], "2000 ± 1414"),
        ([float("nan"), 1.0], "nan"),
        ([float("inf"), -float("inf")], "nan"),
        ([float("inf"), 1.0], "inf"),
        ([1e308, 1e308], "1e+308 ± 0"),
        ([1e308, -1e308], "0 ± 1.4e+308"),
        ([1e200, 1.0], "5e+199 ± 7.1e+199"),
        ([1e200], "1e+200"),
    ],
)
def test_numbers_are_short_and_aligned(values: list[float], shown: str) -> None:
    from negplug.cli.sweep.spread import mean_and_deviation

    assert mean_and_deviation(values) == shown


def test_whatever_was_logged_is_drawn_and_written(tmp_path: Path) -> None:
    from negplug.cli.sweep.figures import draw_pictures
    from negplug.cli.sweep.report import write_report
    from negplug.cli.sweep.study import Result, Run
    from negplug.cli.sweep.summary import Summary

    largest, inf = 1.7e308, math.inf
    samplers = {"baseline": (largest, -largest), "uniform(2)": (inf, -inf), "uniform(4)": (1, inf)}
    results = [
        Result(
            Run(sampler, seed),
            1.0,
            {"acc": value, "negplug/loss/num_negatives": largest},
            [(1, 0.5), (2, value), (3, 0.75)],
        )
        for sampler, values in samplers.items()
        for seed, value in enumerate(values)
    ]
    summary = Summary(results, list(samplers))
    pictures = draw_pictures(summary, tmp_path)
    assert {picture.file for picture in pictures} == {"plot.png", "gradient_snr.png"}
    write_report(summary, {}, "negplug sweep", pictures, tmp_path / "report.md")
    assert "uniform(4)" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("script", "b.py"),
        ("args", ("--epochs=3",)),
        ("objective", "infonce()"),
        ("diagnose", ("gradient_snr",)),
        ("environment", ("NEGPLUG_IGNORE=TripletLoss",)),
    ],
)
def test_a_study_remembers_every_setting(tmp_path: Path, field: str, value: object) -> None:
    from negplug.cli.sweep.study import Settings, SweepStudy

    settings = Settings(script="a.py", args=("{seed}",), objective=None, temperature=0.1)
    where = (f"sqlite:///{tmp_path / 'study.db'}", "sweep")
    for _ in range(2):
        SweepStudy(*where, settings)
    with pytest.raises(ValueError, match=f"this study was created with {field}="):
        SweepStudy(*where, replace(settings, **{field: value}))


def test_a_study_from_before_there_were_grids_goes_on(tmp_path: Path) -> None:
    import optuna

    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    url = f"sqlite:///{tmp_path / 'study.db'}"
    settings = {"script": "a.py", "args": [], "objective": None, "temperature": None}
    old = optuna.create_study(storage=url, study_name="sweep")
    old.set_user_attr("settings", settings)
    old.enqueue_trial({}, user_attrs={"sampler": "baseline", "seed": 0})
    trial = old.ask()
    trial.set_user_attr("metrics", {"acc": 0.5})
    old.tell(trial, 2.5)

    study = SweepStudy(url, "sweep", Settings("a.py", (), None, None))
    assert study.results() == [Result(Run("baseline", 0), 2.5, {"acc": 0.5}, [])]
    study.enqueue([Run("baseline", 0)])
    assert len(old.trials) == 1


def test_runs_of_a_script_that_was_changed_since_are_counted(tmp_path: Path) -> None:
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    script, runs = tmp_path / "a.py", [Run("baseline", seed) for seed in range(3)]
    settings = Settings(str(script), (), None, None)
    for number, text in enumerate(["lr = 0.1", "lr = 0.1", "lr = 0.3"]):
        script.write_text(text)
        study = SweepStudy(tmp_path / "study.db", "sweep", settings)
        assert study.of_another_script() == (2 if text == "lr = 0.3" else 0)
        study.enqueue(runs[: number + 1])
        study.work(runs[: number + 1], lambda run: Result(run, 1.0, {}), lambda runs: None)
    assert study.of_another_script() == 2  # these stay, and the last one is of the script as it is
    assert len(study.results()) == 3


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_was_enqueued_twice_runs_once(tmp_path: Path, fails: bool) -> None:
    """Two sweeps that start at the same moment may both enqueue what is to run."""
    import optuna

    from negplug.cli.child import RunFailedError
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = SweepStudy(url, "sweep", Settings("a.py", (), None, None))
    run, done = Run("baseline", 0), []
    study.enqueue([run])
    twin = optuna.load_study(study_name="sweep", storage=url)
    twin.enqueue_trial({}, user_attrs=twin.trials[0].user_attrs)
    # Of what is not asked for, nothing runs.
    study.enqueue([Run("baseline", 1)])

    def execute(run: Run) -> Result:
        done.append(run)
        if fails:
            raise RunFailedError("out of luck")
        return Result(run, 1.0, {})

    study.work([run], execute, lambda runs: None)
    study.work([run], execute, lambda runs: None)
    assert done == [run]
    assert study.failures() == ({run: "out of luck"} if fails else {})


def test_which_sweep_a_run_has_failed_in_is_told_without_a_clock(tmp_path: Path) -> None:
    """A clock may be set back, and those of machines that share a storage differ."""
    import sqlite3

    from negplug.cli.child import RunFailedError
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    file, run, done = tmp_path / "study.db", Run("baseline", 0), []
    settings = Settings("a.py", (), None, None)

    def execute(run: Run) -> Result:
        done.append(run)
        raise RunFailedError("out of luck")

    for year in (2000, 2100):
        study = SweepStudy(file, "sweep", settings)
        study.work([run], execute, lambda runs: None)
        with sqlite3.connect(file) as database:
            database.execute(f"UPDATE trials SET datetime_complete = '{year}-01-01 00:00:00'")
        database.close()
        study.work([run], execute, lambda runs: None)  # has failed in this sweep already
    SweepStudy(file, "sweep", settings).work([run], execute, lambda runs: None)
    assert done == [run] * 3


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import import_module

    from typer.testing import CliRunner

    from negplug.cli import app

    monkeypatch.setattr(import_module("negplug.cli.sweep.ready"), "find_spec", lambda name: None)
    arguments = ["sweep", "x.py", "--sampler", "baseline", "--seeds", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert 'pip install "negplug[sweep]"' in done.stderr


def test_a_run_whose_beats_came_too_late_is_left_to_who_has_taken_it_over(tmp_path: Path) -> None:
    """A machine that slept for a while, for one."""
    import optuna

    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    url = f"sqlite:///{tmp_path / 'study.db'}"
    study, run = SweepStudy(url, "sweep", Settings("a.py", (), None, None)), Run("baseline", 0)
    done = []

    def execute(run: Run) -> Result:
        done.append(run)
        if len(done) == 1:
            other = optuna.load_study(study_name="sweep", storage=url)
            other.tell(0, state=optuna.trial.TrialState.FAIL)
        return Result(run, float(len(done)), {})

    study.work([run], execute, lambda runs: None)
    assert done == [run, run]
    assert [result.seconds for result in study.results()] == [2.0]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_run_that_was_killed_before_its_first_beat_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from negplug.cli.sweep import storage
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    where, settings, run = tmp_path / "study.db", Settings("a.py", (), None, None), Run("a", 0)
    killed = SweepStudy(where, "sweep", settings)
    killed.enqueue([run])
    killed._study.ask()  # and here it ends
    monkeypatch.setattr(storage, "_GRACE_SECONDS", 1)
    waits = []

    def wait(runs: list[Run]) -> None:
        waits.append(runs)
        assert len(waits) < 30

    study = SweepStudy(where, "sweep", settings)
    study.work([run], lambda run: Result(run, 1.0, {}), wait)
    assert [result.run for result in study.results()] == [run]
