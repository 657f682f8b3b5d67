"""The storage of a study: a file of any name, old and damaged ones, one that is lost in between."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")


def test_a_study_with_metrics_that_are_none_goes_on(tmp_path: Path) -> None:
    """Such studies were made before metrics were checked."""
    import optuna

    from negplug.cli.sweep.study import Run, Settings, SweepStudy

    settings = {"script": "a.py", "args": [], "objective": None, "temperature": None}
    old = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="sweep")
    old.set_user_attr("settings", settings)
    old.enqueue_trial({}, user_attrs={"sampler": "baseline", "seed": 0})
    trial = old.ask()
    trial.set_user_attr("metrics", {"acc": 0.5, "loss": None, "a\nb": 1})
    old.tell(trial, 2.5)
    study = SweepStudy(tmp_path / "study.db", "sweep", Settings("a.py", (), None, None))
    (result,) = study.results()
    assert result.run == Run("baseline", 0)
    assert result.metrics == {"acc": 0.5}


NAMES = ["q?a", "q?b", "50%41", "50A", "a{b}", "a#b;c&d=e", " x:y@z ", "ünï"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_every_folder_has_a_study_of_its_own(tmp_path: Path) -> None:
    from negplug.cli.sweep.study import Run, Settings, SweepStudy

    for seed, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        study = SweepStudy(tmp_path / name / "study.db", "sweep", Settings("a.py", (), None, None))
        study.enqueue([Run("baseline", seed)])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for seed, name in enumerate(NAMES):
        assert [path.name for path in (tmp_path / name).iterdir()] == ["study.db"]
        with sqlite3.connect(tmp_path / name / "study.db") as database:
            query = "SELECT value_json FROM trial_user_attributes WHERE key = 'seed'"
            assert database.execute(query).fetchall() == [(str(seed),)]
        database.close()


def test_a_url_may_hold_braces(tmp_path: Path) -> None:
    from negplug.cli.sweep.study import Settings, SweepStudy

    SweepStudy(f"sqlite:///{tmp_path}/{{x}}.db", "sweep", Settings("a.py", (), None, None))
    assert [path.name for path in tmp_path.iterdir()] == ["{x}.db"]


DAMAGES = {
    "text": b"I am no database\n" * 1_000,
    "beginning": b"SQLite format 3\0" + b"\xff" * 50_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_database_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    from negplug.cli.sweep import storage
    from negplug.cli.sweep.study import Settings, SweepStudy

    monkeypatch.delattr(storage.time, "sleep")  # waiting does not help
    file = tmp_path / "study.db"
    file.write_bytes(DAMAGES[damage])
    with pytest.raises(ValueError, match=r"no SQLite database|cannot be opened \("):
        SweepStudy(file, "sweep", Settings("a.py", (), None, None))
    assert file.read_bytes() == DAMAGES[damage]


STATEMENTS = [
    "UPDATE trials SET state = 'COMPLETED'",
    "UPDATE trial_user_attributes SET value_json = '{'",
    "UPDATE trial_user_attributes SET value_json = '3' WHERE key = 'point'",
    "UPDATE trial_user_attributes SET value_json = '[[1]]' WHERE key = 'gradient_snr'",
    "DELETE FROM trial_values",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_damaged_study_is_told_as_such(tmp_path: Path, statement: str) -> None:
    from negplug.cli.sweep.storage import StorageError
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    settings, run = Settings("a.py", (), None, None), Run("baseline", 0)
    study = SweepStudy(tmp_path / "study.db", "sweep", settings)
    study.enqueue([run])
    study.work([run], lambda run: Result(run, 1.0, {"acc": 0.5}, [(1, 0.5)]), lambda runs: None)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute(statement)
    database.close()
    with pytest.raises(StorageError) as caught:
        SweepStudy(tmp_path / "study.db", "sweep", settings).results()
    assert 0 < len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_database_lost_during_a_run_is_told(tmp_path: Path) -> None:
    from negplug.cli.sweep.storage import StorageError
    from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

    run, file = Run("baseline", 0), tmp_path / "study.db"
    study = SweepStudy(file, "sweep", Settings("a.py", (), None, None))

    def execute(run: Run) -> Result:
        with file.open("r+b") as database:
            database.write(b"\xff" * file.stat().st_size)
        return Result(run, 1.0, {})

    with pytest.raises(StorageError):
        study.work([run], execute, lambda runs: None)
