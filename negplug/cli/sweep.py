"""``negplug sweep``: one script under several samplers and seeds, each run its own process."""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from negplug.cli.child import METRICS_FILE, RunFailedError, run_child
from negplug.cli.plot import draw_plot
from negplug.cli.progress import SweepProgress
from negplug.cli.report import print_table, write_report
from negplug.cli.study import Run, Settings, SweepStudy, alone
from negplug.cli.summary import Summary, write_csv
from negplug.cli.treatment import BASELINE, check_treatment, fail
from negplug.metrics import final_metrics


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
    missing = [name for name in ("optuna", "matplotlib") if find_spec(name) is None]
    if missing:
        fail(f'sweep needs {" and ".join(missing)}: pip install "negplug[sweep]"', code=1)
    if not script.is_file():
        fail(f"SCRIPT {str(script)!r} is no file; check its name.")
    check_treatment(sampler, objective, temperature)
    samplers = list(dict.fromkeys(_one_spelling(text) for text in sampler))
    settings = Settings(
        script=str(script.resolve()),
        args=tuple(args or ()),
        objective=_one_spelling(objective) if objective else None,
        temperature=temperature,
    )
    out.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that a sweep that is still running compares all samplers.
    runs = [Run(text, seed) for seed in range(seeds) for text in samplers]
    # A shared storage tells its studies apart by folder name; a folder's own may be renamed.
    where = (storage, out.resolve().name) if storage else (f"sqlite:///{out / 'study.db'}", "sweep")
    try:
        with alone(out):
            study = SweepStudy(*where, settings)
            study.enqueue(runs)
    except ValueError as error:
        fail(f"--out {out}: {error}.")

    # A terminated sweep has to end its child as an interrupted one does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        _do(runs, study, settings, samplers, out)
    except KeyboardInterrupt:
        typer.echo("negplug: stopped; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None

    summary, failures = Summary(study.results(), samplers, metric), study.failures()
    write_csv(summary, out / "results.csv")
    caption = draw_plot(summary, out / "plot.png")
    command = _own_command(script, settings, summary, out)
    write_report(summary, failures, command, caption, out / "report.md")
    print_table(summary)
    typer.echo(f"Report: {out / 'report.md'}")
    failed = [run for run in runs if run in failures]
    for run in failed:
        typer.echo(f"\n{run} failed with {failures[run]}", err=True)
    if failed:
        noun = "run" if len(failed) == 1 else "runs"
        fail(f"{len(failed)} {noun} failed; the same command retries what failed.", code=1)
    if metric is not None and metric != summary.metric:
        logged = ", ".join(summary.metrics) or "nothing"
        fail(f"--metric {metric!r} was logged by no run, logged were: {logged}.")


def _do(
    runs: Sequence[Run], study: SweepStudy, settings: Settings, samplers: Sequence[str], out: Path
) -> None:
    """Do the runs that are still to do, showing where they stand; results.csv grows with each."""
    finished = {result.run for result in study.results()}.intersection(runs)
    with SweepProgress(total=len(runs), finished=len(finished)) as progress:

        def execute(run: Run) -> tuple[float, dict[str, float]]:
            # What ran before this run is in the study by now.
            write_csv(Summary(study.results(), samplers), out / "results.csv")
            directory = out / "runs" / f"{_folder_name(run.sampler)}-seed{run.seed}"
            progress.started(run)
            begin = time.monotonic()
            try:
                run_child(_child_command(run, settings), directory, progress.tick)
            except RunFailedError:
                progress.ended(run, "failed")
                raise
            seconds = time.monotonic() - begin
            progress.ended(run, f"finished in {seconds:.1f} s")
            return seconds, final_metrics(directory / METRICS_FILE)

        study.work(runs, execute, progress.waiting)


def _one_spelling(expression: str) -> str:
    """One spelling per expression, so that blanks and quotes do not make another sampler."""
    return ast.unparse(ast.parse(expression.strip(), mode="eval"))


def _folder_name(sampler: str) -> str:
    """A readable folder name; a hash keeps apart what the readable part may not."""
    name = re.sub(r"[^\w.=+-]+", "_", sampler).strip("_")
    if re.fullmatch(r"\w+(\([\w=., +-]*\))?", sampler) and len(name) <= 80:
        return name
    return f"{name[:80]}-{hashlib.sha256(sampler.encode()).hexdigest()[:8]}"


def _child_command(run: Run, settings: Settings) -> list[str]:
    treatment = [] if run.sampler == BASELINE else _treatment(settings)
    command = [sys.executable, "-m", "negplug", "run", "--sampler", run.sampler, *treatment]
    args = [arg.replace("{seed}", str(run.seed)) for arg in settings.args]
    return [*command, "--seed", str(run.seed), settings.script, *args]


def _own_command(script: Path, settings: Settings, summary: Summary, out: Path) -> str:
    """The command that makes the whole study, which may have grown over several calls."""
    command = ["negplug", "sweep", str(script)]
    for sampler in summary.samplers:
        command += ["--sampler", sampler]
    seeds = 1 + max((result.run.seed for result in summary.results), default=0)
    command += [*_treatment(settings), "--seeds", str(seeds), "--out", str(out)]
    return shlex.join([*command, "--", *settings.args] if settings.args else command)


def _treatment(settings: Settings) -> list[str]:
    objective = [] if settings.objective is None else ["--objective", settings.objective]
    if settings.temperature is None:
        return objective
    return [*objective, "--temperature", str(settings.temperature)]
