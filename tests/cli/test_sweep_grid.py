"""`negplug sweep --grid`: real sweeps of a script that trains nothing but logs as a recipe does.

`tests/cli/test_sweep_choice.py` has the choice of the best setting and the pictures.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import Workplace, refused, wait_for

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

# Logs an accuracy that depends on all that reached it, and leaves what that was in `starts`.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from negplug.hosts import call_record

call_record.record_call()
names = ("SAMPLER", "OBJECTIVE", "TEMPERATURE", "DIAGNOSTICS")
reached = {name: os.environ.get(f"NEGPLUG_{name}") for name in names}
lr, seed = float(sys.argv[1]), int(sys.argv[2])
number = int(reached["SAMPLER"].partition("=")[2].rstrip(")")) if reached["SAMPLER"] else 0
start = Path("starts", f"{number}-{lr}-{seed}-{os.getpid()}")
start.write_text(json.dumps({**reached, "ARGS": sys.argv[1:]}))
for _ in range(12_000):
    if not Path("control", f"hang-{number}-{lr}-{seed}").exists():
        break
    time.sleep(0.05)
accuracy = 0.6 - abs(lr - (0.1 if number == 1 else 0.3)) + seed / 100
with open(os.environ["NEGPLUG_METRICS"], "a") as file:
    for epoch in range(3):
        metrics = {"linear_acc": accuracy, "negplug/gradient_snr": 0.1 * epoch + accuracy}
        if number:
            metrics["negplug/criterion/num_negatives"] = number
        line = {"step": 8 * (epoch + 1), "metrics": metrics}
        print(json.dumps(line), file=file)
"""

GRID = ("--grid", "M=1,4", "--grid", "lr=0.1,0.3", "--grid", "tau=0.2")
TREATMENT = ("--temperature", "{tau}", "--objective", "debiased(tau_plus={tau})")
SAMPLERS = ("--sampler", "baseline", "--sampler", "uniform(num_negatives={M})")
ARGS = ("{lr}", "{seed}", '{"a": {"{other}": "${lr}"}}')


def reached(place: Workplace) -> list[dict[str, str]]:
    """What each start of the script got."""
    return [json.loads(path.read_text()) for path in (place.path / "starts").iterdir()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A finished sweep, to be read and not extended."""
    place = Workplace(tmp_path_factory.mktemp("finished") / "place", SCRIPT)
    diagnose = ("--diagnose", "gradient_snr")
    done = place.sweep(*SAMPLERS, *TREATMENT, *GRID, *diagnose, "--seeds", "2", args=ARGS)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "negplug: {other} in ARGS has no --grid and stays as it is.\n"
    return place


def test_every_run_gets_its_values_and_runs_once(finished: Workplace) -> None:
    expected = [
        {
            "SAMPLER": f"uniform(num_negatives={number})" if number else None,
            "OBJECTIVE": "debiased(tau_plus=0.2)" if number else None,
            "TEMPERATURE": "0.2" if number else None,
            "DIAGNOSTICS": "gradient_snr",
            "ARGS": [lr, seed, '{"a": {"{other}": "${lr}"}}'],
        }
        for number in (0, 1, 4)
        for lr in ("0.1", "0.3")
        for seed in "01"
    ]
    assert sorted(map(str, reached(finished))) == sorted(map(str, expected))


def test_a_name_in_sampler_and_args_stands_for_one_value() -> None:
    from negplug.cli.sweep.grid import expand
    from negplug.cli.sweep.study import Run, Settings

    settings = Settings("script.py", ("n={M}",), None, None)
    samplers = ["baseline", "in_batch()", "uniform(num_negatives = {M})"]
    runs = expand([*samplers, "uniform(num_negatives=1)"], settings, {"M": ("1", "4")}, 1)
    one, four = ((("M", value),) for value in "14")
    assert runs == [
        *(Run(sampler, 0, point) for sampler in samplers[:2] for point in (one, four)),
        Run("uniform(num_negatives=1)", 0, one),
        Run("uniform(num_negatives=4)", 0, four),
        # The sampler that is written out has no value of M, but the script does.
        Run("uniform(num_negatives=1)", 0, four),
    ]


def test_the_baseline_does_not_multiply_by_what_it_does_not_get() -> None:
    from negplug.cli.sweep.grid import expand
    from negplug.cli.sweep.study import Settings

    grid = {name: ("1", "2") for name in ("alpha", "lr", "tau")}
    settings = Settings("script.py", ("lr={lr}",), "relic(alpha={alpha})", "{tau}")
    runs = expand(["baseline", "in_batch()"], settings, grid, 3)
    assert len(set(runs)) == len(runs)
    names = [(run.sampler, "".join(name for name, _ in run.point)) for run in runs]
    assert names.count(("baseline", "lr")) == 2 * 3
    assert names.count(("in_batch()", "alphalrtau")) == 2**3 * 3
    # A sweep that is still running compares all samplers.
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


def test_folders_of_runs_are_readable_and_never_shared() -> None:
    from negplug.cli.sweep.command import run_folder
    from negplug.cli.sweep.study import Run

    assert run_folder(Run("in_batch()", 2, (("lr", "1e-3"), ("tau", "0.1")))) == (
        "in_batch-lr=1e-3-tau=0.1-seed2"
    )
    points = [(("a", value),) for value in ("x/y", "x_y", "x y", "x" * 90, "x" * 91, "x-b=1")]
    runs = [Run("baseline", 0, point) for point in (*points, (("a", "x"), ("b", "1")))]
    folders = {run_folder(run) for run in runs}
    assert len(folders) == len(runs)
    assert not any("/" in folder for folder in folders)


def test_results_have_a_column_per_name_and_tell_the_chosen(finished: Workplace) -> None:
    rows = finished.rows()
    assert list(rows[0])[:7] == ["sampler", "lr", "tau", "seed", "chosen", "seconds", "linear_acc"]
    chosen = [(r["sampler"], r["lr"], r["tau"], r["seed"]) for r in rows if r["chosen"] == "1"]
    one, four = (f"uniform(num_negatives={number})" for number in (1, 4))
    assert chosen == [
        *[("baseline", "0.3", "", seed) for seed in "01"],
        *[(one, "0.1", "0.2", seed) for seed in "01"],
        *[(four, "0.3", "0.2", seed) for seed in "01"],
    ]
    assert [row["chosen"] for row in rows].count("0") == 6


def test_the_report_has_both_tables_and_every_picture(finished: Workplace) -> None:
    out = finished.path / "out"
    report = (out / "report.md").read_text()
    head, folded = report.split("<details>")
    assert "--temperature '{tau}' --diagnose gradient_snr --grid lr=0.1,0.3 --grid tau=0.2" in head
    header = "| sampler | lr | tau | negatives | linear_acc | negplug/gradient_snr | "
    assert header in head
    assert "| `baseline` | 0.3 | - | - | 0.6050 ± 0.0071 |" in head
    assert "| `uniform(num_negatives=1)` | 0.1 | 0.2 | 1 | 0.6050 ± 0.0071 |" in head
    assert "the setting with the highest mean linear_acc" in head
    treated = "All but baseline with objective debiased(tau_plus={tau}) and temperature {tau}."
    assert head.count(treated) == 2  # of the table, and of the picture
    assert "| `uniform(num_negatives=1)` | 0.3 |" in folded
    assert "| `uniform(num_negatives=1)` | 0.3 |" not in head
    pictures = re.findall(r"!\[.+\]\((.+)\)\n\n\S", report)
    assert pictures == ["plot.png", "num_negatives.png", "gradient_snr.png"]
    assert sorted(path.name for path in out.glob("*.png")) == sorted(pictures)


def test_the_command_in_the_report_repeats_the_study(finished: Workplace) -> None:
    import shlex

    before = finished.starts()
    (command,) = re.findall("```bash\n(.+)\n", (finished.path / "out" / "report.md").read_text())
    options = shlex.split(command)[3:]
    end = options.index("--")
    done = finished.sweep(*options[:end], args=tuple(options[end + 1 :]))
    assert done.returncode == 0, done.stderr
    assert "12 of 12 runs were finished before" in done.stdout
    assert finished.starts() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--grid", "lr"], "--grid 'lr' is not of the form NAME=V1,V2"),
        (["--grid", "a b=1"], "--grid 'a b=1' is not of the form"),
        (["--grid", "lr="], "--grid 'lr=' has an empty value"),
        (["--grid", "lr=1,,2"], "--grid 'lr=1,,2' has an empty value"),
        (["--grid", "lr=1,1"], "--grid 'lr=1,1' lists a value twice"),
        (["--grid", "lr=1", "--grid", "lr=2"], "--grid gives 'lr' twice"),
        (["--grid", "seed=1,2"], "--grid 'seed=1,2': 'seed' is taken; --seeds K says how many"),
        (["--grid", "wd=1,2"], "--grid wd: there is no {wd} in --sampler"),
        (["--objective", "f({t})"], "--objective 'f({t})': {t} has no values; add --grid t="),
        (
            ["--temperature", "{seed}"],
            "--temperature '{seed}': {seed} has no values; it is for ARGS",
        ),
        (["--temperature", "warm"], "--temperature 'warm' is not a number"),
        (["--temperature", "{lr}", "--grid", "lr=0.1,warm"], "--temperature 'warm' is not"),
        (["--temperature", "{lr}", "--grid", "lr=0.1,-1"], "--temperature -1.0 is not a positive"),
        (["--sampler", "{lr}", "--grid", "lr=unifrom()"], "--sampler 'unifrom()'"),
        (["--objective", "{lr}", "--grid", "lr=infonec()"], "--objective 'infonec()'"),
        (
            ["--seeds", "1000000000"],
            "--grid, --sampler and --seeds 1000000000 make more than 100000 runs; give fewer",
        ),
        (["--diagnose", "snr"], "--diagnose 'snr': there are gradient_snr, representation"),
        (["--minimize"], "--minimize has no effect without --metric"),
        (["--study", "x"], "--study 'x' has no effect without --storage"),
        (["--storage", "nonsense"], "--study out: the storage cannot be opened"),
    ],
)
def test_mistakes_are_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    given = ("--sampler", "in_batch()", *arguments, "--", "{lr}x")
    assert f"negplug: {sentence}" in refused(monkeypatch, tmp_path, *given)


def test_two_folders_on_one_storage_share_the_runs_and_survive_a_kill(place: Workplace) -> None:
    """As on two machines: one is killed in a run, the other does it, both report everything."""
    storage = ("--storage", f"sqlite:///{place.path / 'shared.db'}", "--study", "common")
    grid = ("--grid", "lr=0.1,0.2,0.3", "--seeds", "1")
    arguments = ("--sampler", "baseline", *grid, *storage)
    args = ("{lr}", "{seed}")
    place.control("hang-0-0.2-0").touch()
    first = place.start(*arguments, args=args, out="here")
    wait_for(lambda: place.starts() == ["0-0.1-0", "0-0.2-0"])
    second = place.start(*arguments, args=args, out="there")
    wait_for(lambda: "0-0.3-0" in place.starts())
    first.send_signal(signal.SIGKILL)
    first.communicate()
    wait_for(lambda: place.starts().count("0-0.2-0") == 2)
    place.control("hang-0-0.2-0").unlink()
    out, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert "1 of 3 runs were finished before" in out

    done = place.sweep(*arguments, args=args, out="here")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs were finished before" in done.stdout
    assert place.starts() == ["0-0.1-0", "0-0.2-0", "0-0.2-0", "0-0.3-0"]
    assert place.rows("here") == place.rows("there")
    assert [row["lr"] for row in place.rows("here")] == ["0.3", "0.2", "0.1"]
    # The curve of a run that was done elsewhere came with the storage.
    assert (place.path / "here" / "gradient_snr.png").exists()


def test_new_folders_on_a_new_storage_at_the_same_moment(place: Workplace) -> None:
    storage = ("--storage", f"sqlite:///{place.path / 'shared.db'}", "--study", "common")
    arguments = ("--sampler", "baseline", "--grid", "lr=0.1,0.2", "--seeds", "1", *storage)
    several = [place.start(*arguments, args=("{lr}", "{seed}"), out=name) for name in "abc"]
    errors = [process.communicate(timeout=240)[1] for process in several]
    assert [process.returncode for process in several] == [0, 0, 0], errors
    assert place.starts() == ["0-0.1-0", "0-0.2-0"]


CLAIMS = """
import sys
from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy

runs = [Run("baseline", seed) for seed in range(30)]
study = SweepStudy(sys.argv[1], "common", Settings("train.py", (), None, None))
study.enqueue(runs)

def execute(run):
    print(run.seed)
    return Result(run, 0.0, {})

study.work(runs, execute, lambda elsewhere: None)
"""


def test_no_run_is_taken_twice_however_short_it_is(tmp_path: Path) -> None:
    # Without a lock around reading and writing two of three attempts fail.
    command = [sys.executable, "-c", CLAIMS, f"sqlite:///{tmp_path / 'shared.db'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    several = [subprocess.Popen(command, **pipes) for _ in range(4)]
    said = [process.communicate(timeout=240) for process in several]
    assert [process.returncode for process in several] == [0, 0, 0, 0], said
    taken = [int(seed) for out, _ in said for seed in out.split()]
    assert sorted(taken) == list(range(30))


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, SCRIPT)
