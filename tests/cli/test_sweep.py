"""`negplug sweep`: every sweep and every run in it is a real process.

The script is no training: it writes the metrics that a recorder would write, so that these tests
are about the sweep alone. `tests/cli/test_run.py` has the recorder and a Lightning recipe.
"""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
from sweeps import Workplace, wait_for
from systems import has_ended

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
# Every start of the script leaves a file in `starts`; files named in `control` steer it.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from negplug.hosts import call_record

call_record.record_call()
seed = int(sys.argv[1])
sampler = os.environ.get("NEGPLUG_SAMPLER", "baseline")
starts, control = Path("starts"), Path("control")
name = f"{sampler.split('(')[0]}-{seed}"
(starts / f"{name}-{os.getpid()}").touch()
print("training", sampler)
if (control / f"fail-{name}").exists():
    raise RuntimeError("out of luck")
for _ in range(12_000):
    if not (control / f"hang-{name}").exists():
        break
    time.sleep(0.05)
line = {"epoch": 0, "max_epochs": 1, "metrics": {"loss": 2.0, "linear_acc": 0.5 + seed / 10}}
with open(os.environ["NEGPLUG_METRICS"], "a") as file:
    print(json.dumps(line), file=file)
"""
UNIFORM = "uniform(num_negatives=4)"


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, SCRIPT)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A finished sweep, to be read and not extended."""
    place = Workplace(tmp_path_factory.mktemp("finished") / "place", SCRIPT)
    done = place.sweep("--sampler", UNIFORM, "--sampler", "baseline", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "0.550 ± 0.071" in done.stdout
    return place


def test_results_have_a_row_per_run_with_the_baseline_first(finished: Workplace) -> None:
    rows = finished.rows()
    assert list(rows[0]) == ["sampler", "seed", "seconds", "loss", "linear_acc"]
    cells = [(row["sampler"], row["seed"], row["linear_acc"]) for row in rows]
    # The accuracy comes from the seed in ARGS, so `{seed}` was replaced.
    assert cells == [
        ("baseline", "0", "0.5"),
        ("baseline", "1", "0.6"),
        (UNIFORM, "0", "0.5"),
        (UNIFORM, "1", "0.6"),
    ]
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_the_report_names_command_metric_and_error_bars(finished: Workplace) -> None:
    report = (finished.path / "out" / "report.md").read_text()
    assert f"negplug sweep script.py --sampler baseline --sampler '{UNIFORM}' --seeds 2" in report
    assert "| sampler | linear_acc | loss | seconds | runs |" in report
    assert f"| `{UNIFORM}` | 0.550 ± 0.071 | 2.000 ± 0 |" in report
    assert "![linear_acc per sampler](plot.png)" in report
    assert "error bars: ± 1 standard deviation" in report
    assert "Failed runs" not in report
    assert (finished.path / "out" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_every_run_has_its_log(finished: Workplace) -> None:
    log = finished.path / "out" / "runs" / "uniform_num_negatives=4-seed1" / "log.txt"
    command, output, *more = log.read_text().splitlines()
    assert not more, more
    assert "negplug run --sampler" in command
    assert output == f"training {UNIFORM}"


def test_settings_are_never_mixed(finished: Workplace) -> None:
    before = finished.starts()
    done = finished.sweep("--sampler", "baseline", "--seeds", "2", "--temperature", "0.5")
    assert done.returncode == 2
    assert "was created with temperature=None, not temperature=0.5" in done.stderr
    assert finished.starts() == before


def test_finished_runs_are_skipped_and_an_unknown_metric_is_named(finished: Workplace) -> None:
    before = finished.starts()
    # Another spelling is the same sampler.
    spelling = "uniform( num_negatives = 4 )"
    done = finished.sweep("--sampler", spelling, "--seeds", "2", "--metric", "knn_acc")
    assert done.returncode == 2
    assert "--metric 'knn_acc' was logged by no run" in done.stderr
    assert finished.starts() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sampler", "baseline", "--sampler", "unifrom()", "--seeds", "1"],
        ["--sampler", "in_batch()", "--temperature", "0", "--seeds", "1"],
    ],
)
def test_all_is_checked_before_anything_starts(place: Workplace, arguments: list[str]) -> None:
    done = place.sweep(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("negplug: --")
    assert not place.starts()
    assert not (place.path / "out").exists()


def test_a_failing_run_is_reported_and_retried_and_the_grid_can_grow(place: Workplace) -> None:
    place.control("fail-baseline-0").touch()
    done = place.sweep("--sampler", "baseline", "--seeds", "2")
    assert done.returncode == 1
    assert "out of luck" in done.stderr
    assert "1 run failed" in done.stderr
    assert [row["seed"] for row in place.rows()] == ["1"]
    assert "out of luck" in (place.path / "out" / "report.md").read_text()

    place.control("fail-baseline-0").unlink()
    done = place.sweep("--sampler", "baseline", "--sampler", UNIFORM, "--seeds", "2")
    assert done.returncode == 0, done.stderr
    cells = [(row["sampler"], row["seed"]) for row in place.rows()]
    assert cells == [(sampler, seed) for sampler in ("baseline", UNIFORM) for seed in "01"]
    # The failed run twice, everything else once.
    baseline = ["baseline-0", "baseline-0", "baseline-1"]
    assert place.starts() == [*baseline, "uniform-0", "uniform-1"]
    assert "Failed runs" not in (place.path / "out" / "report.md").read_text()


def test_a_stopped_sweep_takes_its_run_along_and_goes_on(place: Workplace) -> None:
    place.control("hang-baseline-1").touch()
    arguments = ["--sampler", "baseline", "--seeds", "2"]
    killed: set[Path] = set()
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = place.start(*arguments)
        wait_for(lambda: len(place.starts_of("baseline-1") - killed) == 1)
        (hanging,) = place.starts_of("baseline-1") - killed
        run = int(hanging.name.rpartition("-")[2])
        killed.add(hanging)
        process.send_signal(number)
        _, errors = process.communicate(timeout=240)
        # Not even a killed sweep leaves its run behind.
        wait_for(partial(has_ended, run))
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert "goes on from here" in errors

    place.control("hang-baseline-1").unlink()
    done = place.sweep(*arguments)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 runs were finished before" in done.stdout
    assert [row["seed"] for row in place.rows()] == ["0", "1"]
    assert place.starts() == ["baseline-0", *["baseline-1"] * 4]


def test_two_sweeps_at_once_share_the_runs(place: Workplace) -> None:
    """One sweep is killed in a run; the other, which waited for that run, does it."""
    place.control("hang-baseline-0").touch()
    place.control("fail-baseline-1").touch()
    arguments = ["--sampler", "baseline", "--seeds", "3"]
    first = place.start(*arguments)
    wait_for(lambda: place.starts() == ["baseline-0"])
    second = place.start(*arguments)
    wait_for(lambda: place.starts() == [f"baseline-{seed}" for seed in range(3)])
    assert second.stdout is not None
    assert any(
        "Waiting for what another sweep runs, or was killed in: baseline, seed 0" in line
        for line in second.stdout
    )
    first.kill()
    first.communicate()
    wait_for(lambda: place.starts().count("baseline-0") == 2)
    place.control("hang-baseline-0").unlink()
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 1, errors
    # What failed in this sweep is not tried again by it.
    assert place.starts() == ["baseline-0", "baseline-0", "baseline-1", "baseline-2"]
    assert [row["seed"] for row in place.rows()] == ["0", "2"]


def test_two_sweeps_started_at_the_same_moment(place: Workplace) -> None:
    arguments = ["--sampler", "baseline", "--seeds", "3"]
    both = [place.start(*arguments) for _ in range(2)]
    errors = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert place.starts() == [f"baseline-{seed}" for seed in range(3)]
    assert len(place.rows()) == 3
