"""``negplug sweep``: one script under several samplers and seeds, each run its own process."""

import ast
import hashlib
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from negplug.cli import report
from negplug.cli.run import (
    BASELINE,
    METRICS_FILE,
    RunFailedError,
    check_expressions,
    fail,
    run_child,
)
from negplug.cli.study import Run, Settings, SweepStudy
from negplug.metrics import Record, final_metrics

__all__ = ["sweep"]


def sweep(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="The training script.")],
    sampler: Annotated[
        list[str],
        typer.Option(
            "--sampler",
            metavar="EXPR",
            help="Sampler expression, or 'baseline' for the script untouched. Repeatable.",
        ),
    ],
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="K", min=1, help="Run with the seeds 0 … K-1.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the study and its results.")
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- ARGS]", help="Handed to SCRIPT; '{seed}' becomes the seed of the run."
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", metavar="EXPR", help="Objective of all but the baseline."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="Temperature of all but the baseline."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", metavar="NAME", help="Metric shown first; default: a logged accuracy."
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Optuna storage; default: DIR/study.db."),
    ] = None,
) -> None:
    """Run SCRIPT once per sampler and seed, and compare what it logs.

    Started again, a sweep goes on: finished runs stay, failed and new ones run.

    Started twice at once, the two share the runs.
    """
    _require_extra()
    if not script.is_file():
        fail(f"SCRIPT {str(script)!r} is no file; check its name.")
    check_expressions([text for text in sampler if text != BASELINE], objective, temperature)
    samplers = list(dict.fromkeys(_canonical(text) for text in sampler))
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        script=str(script.resolve()),
        args=tuple(args or ()),
        objective=_canonical(objective) if objective else None,
        temperature=temperature,
    )
    # Seed by seed, so that a sweep that is still running compares all samplers.
    runs = [Run(text, seed) for seed in range(seeds) for text in samplers]
    with _alone(out):
        study = _open_study(out, storage, settings)
        study.enqueue(runs)

    # A terminated sweep has to end its child as an interrupted one does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        _work(study, runs, settings, samplers, out)
    except KeyboardInterrupt:
        typer.echo("negplug: stopped; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    summary = report.Summary(study.results(), samplers, metric)
    failures = study.failures()
    report.write_csv(summary, out / "results.csv")
    caption = report.draw_plot(summary, out / "plot.png")
    command = _own_command(script, settings, summary, out)
    report.write_report(summary, failures, command, caption, out / "report.md")
    report.print_table(summary)
    typer.echo(f"Report: {out / 'report.md'}")
    failed = [run for run in runs if run in failures]
    for run in failed:
        typer.echo(f"\n{_title(run)} failed with {failures[run]}", err=True)
    if failed:
        noun = "run" if len(failed) == 1 else "runs"
        fail(f"{len(failed)} {noun} failed; the same command retries what failed.", code=1)
    if metric is not None and metric != summary.metric:
        logged = ", ".join(summary.metrics) or "nothing"
        fail(f"--metric {metric!r} was logged by no run, logged were: {logged}.")


def _require_extra() -> None:
    missing = [name for name in ("optuna", "matplotlib") if find_spec(name) is None]
    if missing:
        fail(f'sweep needs {" and ".join(missing)}: pip install "negplug[sweep]"', code=1)


def _canonical(expression: str) -> str:
    """One spelling per expression, so that blanks and quotes do not make another sampler."""
    try:
        return ast.unparse(ast.parse(expression.strip(), mode="eval"))
    except SyntaxError:
        return expression.strip()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other sweeps on the same folder out; creating tables is no atomic act in Optuna."""
    import fcntl

    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _open_study(out: Path, storage: str | None, settings: Settings) -> SweepStudy:
    from sqlalchemy.exc import SQLAlchemyError

    # A storage of several studies tells them apart by folder; a folder's own may be renamed.
    url, name = f"sqlite:///{out / 'study.db'}", "negplug"
    if storage is not None:
        url, name = storage, out.resolve().name
    try:
        return SweepStudy(url, name, settings)
    except ValueError as error:
        fail(f"--out {out}: {error}.")
    except (SQLAlchemyError, ImportError) as error:
        fail(f"--storage {url}: {str(error).splitlines()[0]}")


def _work(
    study: SweepStudy, runs: Sequence[Run], settings: Settings, samplers: Sequence[str], out: Path
) -> None:
    """Do the runs, showing where they stand; results.csv grows with every one."""
    finished = {result.run for result in study.results()}.intersection(runs)
    with _Display(total=len(runs), done=len(finished)) as display:

        def execute(run: Run) -> tuple[float, dict[str, float]]:
            directory = out / "runs" / f"{_folder_name(run.sampler)}-seed{run.seed}"
            begin = time.monotonic()
            display.started(run)
            try:
                run_child(_child_command(run, settings), directory, display.tick)
            except RunFailedError:
                display.ended(run, "failed")
                raise
            seconds = time.monotonic() - begin
            display.ended(run, f"finished in {seconds:.1f} s")
            return seconds, final_metrics(directory / METRICS_FILE)

        def on_change() -> None:
            report.write_csv(report.Summary(study.results(), samplers), out / "results.csv")

        study.work(runs, execute, on_change, display.waiting)


class _Display:
    """Progress of a sweep: a bar in a terminal, a line per event elsewhere.

    Args:
        total: Number of runs in the grid.
        done: How many of them were finished before.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._done = done
        self._waited_for: Sequence[Run] = ()
        self._console = Console(markup=False, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
        more = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[epoch]}"))
        self._bar = Progress(
            *columns, *more, console=self._console, disable=not self._console.is_terminal
        )
        self._task = self._bar.add_task("sweep", total=total, completed=done, epoch="")

    def __enter__(self) -> "_Display":
        if self._done:
            self._console.print(f"{self._done} of {self._total} runs were finished before.")
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def started(self, run: Run) -> None:
        self._bar.update(self._task, description=_title(run), epoch="")
        if not self._console.is_terminal:
            self._console.print(f"[{self._done + 1}/{self._total}] {_title(run)}: started")

    def tick(self, records: Sequence[Record]) -> None:
        self._bar.update(self._task, epoch=_epoch(records))

    def ended(self, run: Run, how: str) -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done, epoch="")
        self._console.print(f"[{self._done}/{self._total}] {_title(run)}: {how}")

    def waiting(self, runs: Sequence[Run]) -> None:
        if runs != self._waited_for:
            titles = "; ".join(_title(run) for run in runs)
            self._console.print(
                f"Waiting for what another process runs, or was killed in: {titles}"
            )
        self._waited_for = runs


def _epoch(records: Sequence[Record]) -> str:
    """Where a run stands, from the last line that it recorded."""
    if not records or "epoch" not in records[-1]:
        return ""
    last = records[-1]
    # Lightning counts an epoch as completed only after its last hook.
    epoch = last["epoch"] + (last.get("event") != "fit_end")
    of = last.get("max_epochs") or -1
    return f"epoch {min(epoch, of)}/{of}" if of > 0 else f"epoch {epoch}"


def _title(run: Run) -> str:
    return f"{run.sampler}, seed {run.seed}"


def _folder_name(sampler: str) -> str:
    """A readable folder name; a hash keeps apart what the readable part may not."""
    name = re.sub(r"[^\w.=+-]+", "_", sampler).strip("_")
    if re.fullmatch(r"\w+(\([\w=., +-]*\))?", sampler) and len(name) <= 80:
        return name
    return f"{name[:80]}-{hashlib.sha256(sampler.encode()).hexdigest()[:8]}"


def _treatment(settings: Settings) -> list[str]:
    objective = [] if settings.objective is None else ["--objective", settings.objective]
    if settings.temperature is None:
        return objective
    return [*objective, "--temperature", str(settings.temperature)]


def _child_command(run: Run, settings: Settings) -> list[str]:
    treatment = [] if run.sampler == BASELINE else _treatment(settings)
    command = [sys.executable, "-m", "negplug", "run", "--sampler", run.sampler, *treatment]
    args = [arg.replace("{seed}", str(run.seed)) for arg in settings.args]
    return [*command, "--seed", str(run.seed), settings.script, *args]


def _own_command(script: Path, settings: Settings, results: report.Summary, out: Path) -> str:
    """The command that makes the whole study, which may have grown over several calls."""
    command = ["negplug", "sweep", str(script)]
    for sampler in results.samplers:
        command += ["--sampler", sampler]
    seeds = 1 + max((result.run.seed for result in results.results), default=0)
    command += [*_treatment(settings), "--seeds", str(seeds), "--out", str(out)]
    return shlex.join([*command, "--", *settings.args] if settings.args else command)
