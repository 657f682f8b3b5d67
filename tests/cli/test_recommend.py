"""`negplug recommend` on runs that take no time: who chooses, who is stopped, what is said."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest
from recommending import bench, prepared, starts

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from negplug.cli.recommend import main
from negplug.cli.recommend.bench import BenchError
from negplug.cli.recommend.choice import Choice
from negplug.cli.recommend.verdict import Verdict

QUEUE, UNIFORM = Choice("queue(size=8)"), Choice("uniform(num_negatives=2)")
BANK, HARD = Choice("memory_bank()"), Choice("hard(num_negatives=2)")


def verdict(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *choices: Choice,
    batch_size: int | None = None,
    selection_seeds: int = 1,
    seeds: int = 3,
    **settings: object,
) -> Verdict:
    monkeypatch.setattr(main, "choices_for", lambda size: choices)
    place = bench(folder, **settings)
    return main._verdict(place, batch_size, selection_seeds, seeds, "negplug recommend")


def test_it_says_keep_what_you_have_where_that_is_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The queue is lucky with the seed that chooses, and no better with those that measure.
    folder = prepared(tmp_path, {"queue": 0.002, "uniform": -0.1})
    found = verdict(folder, monkeypatch, QUEUE, UNIFORM)
    assert found.choice == QUEUE
    assert not found.gain.is_clear
    command, _, comment = found.line.partition("  # ")
    assert shlex.split(command) == ["python", "train.py", "--seed", "0"]
    said = f"keep what you have: the best of 2, queue(size=8), has val_acc {found.gain}; "
    assert comment == f"{said}1.50 times the time per step"
    # What measures did not choose.
    assert list(found.gain.differences) == [1, 2, 3]
    assert "with seed 0. Its gain is measured with the seeds 1 to 3" in found.explanation
    report = (folder / "out" / "report.md").read_text()
    assert found.line in report
    assert "| `uniform(num_negatives=2)` | 0.4000 | stopped after 1 of 9 epochs |" in report
    for picture in ("gain.png", "selection.png"):
        assert (folder / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_seeds_choose_among_those_that_halving_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path, {"queue": 0.05, "memory_bank": 0.2, "hard": -0.1, "uniform": 0.1})
    choices = (QUEUE, HARD, BANK, UNIFORM)
    found = verdict(folder, monkeypatch, *choices, selection_seeds=2, seeds=2)
    assert found.choice == BANK
    assert found.gain.is_clear
    command, _, comment = found.line.partition("  # ")
    expected = "negplug run --sampler memory_bank() train.py --seed 0"
    assert shlex.split(command) == expected.split()
    assert comment == f"val_acc {found.gain}; 1.00 times the time per step"
    assert "with the seeds 0 to 1. Its gain is measured with the seeds 2 to 3" in found.explanation
    # Halving: the first goes through; of two or more who come after, the best so far alone.
    expected = ["baseline-0", "hard-0", "memory_bank-0", "queue-0", "uniform-0"]
    expected += ["memory_bank-1", "queue-1"]
    expected += [f"{name}-{seed}" for name in ("baseline", "memory_bank") for seed in (2, 3)]
    assert starts(folder) == sorted(expected)
    with (folder / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stopped = {row["sampler"]: row["stopped_after"] for row in rows if row["stopped_after"]}
    assert stopped == {HARD.sampler: "1", UNIFORM.sampler: "1"}
    assert len(rows) == len(expected)
    # Asked again, nothing is run, and the answer is the same.
    again = verdict(folder, monkeypatch, *choices, selection_seeds=2, seeds=2)
    assert again == found
    assert starts(folder) == sorted(expected)


def test_less_may_be_better_and_a_late_metric_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared(tmp_path, {"queue": 0.1, "uniform": -0.1}, late=True)
    found = verdict(folder, monkeypatch, QUEUE, UNIFORM, seeds=2, minimize=True)
    assert found.choice == UNIFORM
    assert found.gain.mean == pytest.approx(0.1, abs=0.01)
    assert found.gain.is_clear
    assert "Less val_acc is better; a gain is what it falls by." in found.explanation
    assert "val_acc is logged once a run, so none can be stopped early." in capsys.readouterr().out
    assert "stopped" not in (folder / "out" / "report.md").read_text().partition("val_acc: last")[0]


def test_a_choice_that_fails_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared(tmp_path, {"queue": 0.1, "uniform": 0.3})
    (folder / "control" / "fail-uniform-0").touch()
    assert verdict(folder, monkeypatch, UNIFORM, QUEUE, seeds=2).choice == QUEUE
    errors = capsys.readouterr().err
    assert errors == (
        "negplug: uniform(num_negatives=2), seed 0 failed and is left out, see the report: "
        "out of luck\n"
    )
    report = (folder / "out" / "report.md").read_text()
    assert "| `uniform(num_negatives=2)` | - | failed |" in report
    assert "out of luck" in report


def test_what_cannot_be_recommended_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path, {"queue": 0.1}, seeds=0.0)
    with pytest.raises(BenchError, match=r"--metric 'knn' was not .* logged were: loss, val_acc$"):
        verdict(folder, monkeypatch, QUEUE, metric="knn")
    assert starts(folder) == ["baseline-0"]


def test_seeds_that_change_nothing_measure_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path, {"queue": 0.1}, seeds=0.0)
    with pytest.raises(BenchError, match=r"every seed logged the same val_acc \(0.58 untouched"):
        verdict(folder, monkeypatch, QUEUE, seeds=2)
    (folder / "control" / "fail-uniform-0").touch()
    with pytest.raises(BenchError, match="no choice ran to its end"):
        verdict(folder, monkeypatch, UNIFORM)


def test_an_unknown_batch_size_is_asked_for_before_the_first_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path, {"queue": 0.1}, said={})
    hanging = folder / "control" / "hang-baseline-0"
    hanging.touch()
    with pytest.raises(BenchError, match=r"does not record its batch size.* --batch-size$"):
        verdict(folder, monkeypatch, QUEUE, seeds=2)
    hanging.unlink()
    assert verdict(folder, monkeypatch, QUEUE, seeds=2, batch_size=32).choice == QUEUE
    # The untouched run is there now, and the batch size is as unknown as before.
    with pytest.raises(BenchError, match="give it with --batch-size"):
        verdict(folder, monkeypatch, QUEUE, seeds=2)
