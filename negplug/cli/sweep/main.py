"""``negplug sweep``: one script under several samplers, settings and seeds, a process per run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from negplug.cli.sweep.command import environment_of_runs, run_command, sweep_command, treatment_of
from negplug.cli.sweep.faults import one_sentence
from negplug.cli.sweep.figures import draw_pictures
from negplug.cli.sweep.grid import (
    as_temperature,
    check_names,
    expand,
    filled,
    one_spelling,
    parse_grid,
)
from negplug.cli.sweep.html import write_html
from negplug.cli.sweep.ready import (
    check_given,
    check_installed,
    end_runs_on_signals,
    name_of,
    tell_of_another_script,
)
from negplug.cli.sweep.report import print_table, write_report
from negplug.cli.sweep.results import write_csv
from negplug.cli.sweep.runs import do_runs
from negplug.cli.sweep.study import SweepStudy
from negplug.cli.sweep.summary import Summary
from negplug.cli.sweep.trials import Run, Settings
from negplug.cli.terminal import plain
from negplug.cli.treatment import (
    BASELINE,
    check_diagnostics,
    check_treatment,
    fail,
    name_overruled,
)


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
        int, typer.Option("--seeds", metavar="K", min=1, help="Run with the seeds 0 to K-1.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the study and its results.")
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- ARGS]",
            help="Handed to SCRIPT. '{seed}' becomes the seed of the run, '{NAME}' a value of the "
            "--grid of that name; other braces, and '${NAME}', reach SCRIPT as they are.",
        ),
    ] = None,
    compose: Annotated[
        list[str] | None,
        typer.Option(
            "--compose",
            metavar="EXPR",
            help="Composer of the batches of a Lightning Trainer, or 'none' for the script's own. "
            "Every sampler but the baseline runs with each. Repeatable.",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", metavar="EXPR", help="Objective of all but the baseline."),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option("--temperature", metavar="T", help="Temperature of all but the baseline."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="NAME=V1,V2",
            help="Values of '{NAME}' in ARGS, --objective and --temperature: every sampler runs "
            "with all combinations, and its best counts. In --sampler and --compose they make "
            "further choices to compare. Repeatable.",
        ),
    ] = None,
    diagnose: Annotated[
        list[str] | None,
        typer.Option(
            "--diagnose",
            metavar="NAME",
            help="Diagnostics of every run, as for 'negplug run'. Repeatable.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Metric shown first, by whose mean over the seeds settings are chosen; default: "
            "a logged accuracy.",
        ),
    ] = None,
    minimize: Annotated[
        bool, typer.Option("--minimize", help="Less of --metric is better.")
    ] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="Optuna storage; default: DIR/study.db. Sweeps on one storage, on any machine, "
            "share the runs of a study; SCRIPT has the same path on all.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="End a run after so long; it has failed then. Default: runs take what they take.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study", metavar="NAME", help="Study in --storage; default: the name of DIR."
        ),
    ] = None,
) -> None:
    """Run SCRIPT once per sampler, setting and seed, and compare what it logs.

    Started again, a sweep goes on: finished runs stay, failed and new ones run.

    Started twice at once, the two share the runs.
    """
    check_installed("sweep", ("optuna", "matplotlib", "markdown_it"))
    check_given(script, study, storage, timeout)
    if minimize and metric is None:
        fail("--minimize has no effect without --metric; name the metric.")
    check_diagnostics(diagnose or ())
    given_instead = {"OBJECTIVE": objective, "TEMPERATURE": temperature, "COMPOSE": compose}
    name_overruled({**given_instead, "DIAGNOSTICS": diagnose})
    try:
        settings = Settings(
            script=str(script.resolve()),
            args=tuple(args or ()),
            objective=None if objective is None else one_spelling(objective),
            temperature=None if temperature is None else as_temperature(temperature),
            diagnose=tuple(sorted(set(diagnose or ()))),
            environment=environment_of_runs(),
        )
        runs = _planned(sampler, settings, parse_grid(grid or ()), seeds, compose or [])
    except ValueError as error:
        fail(f"{error}.")
    end_runs_on_signals()
    # A shared storage tells its studies apart by name; a folder of its own may be renamed.
    name = (study or name_of(out)) if storage else "sweep"
    given = f"--study {name}" if storage else f"--out {out}"
    try:
        with one_sentence(out, given):
            if out.exists() and not out.is_dir():
                fail(f"--out {out} is no folder; give another.")
            out.mkdir(parents=True, exist_ok=True)
            try:
                shared = SweepStudy(storage or out / "study.db", name, settings)
            except ValueError as error:
                fail(f"{given}: {error}.")
            tell_of_another_script(shared, script)
            shared.enqueue(runs)

            def summarize() -> Summary:
                order = [run.name for run in runs]
                return Summary(shared.results(), order, metric, minimize, treatment_of(settings))

            def keep() -> None:
                write_csv(summarize(), out / "results.csv")

            do_runs(runs, shared, lambda run: run_command(run, settings), keep, out, timeout)
            summary, failures = summarize(), shared.failures()
            options = ["--out", str(out)]
            if metric is not None:
                options += ["--metric", metric, *(["--minimize"] if minimize else [])]
            if timeout is not None:
                options += ["--timeout", f"{timeout:g}"]
            everything = [*runs, *(result.run for result in summary.results)]
            command = sweep_command(script, settings, everything, options)
            keep()
            pictures, report = draw_pictures(summary, out), out / "report.md"
            write_report(summary, failures, command, pictures, report)
            write_html(report, pictures, out / "report.html")
    except KeyboardInterrupt:
        typer.echo("negplug: stopped; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    print_table(summary)
    typer.echo(plain(f"Report: {out / 'report.md'}"))
    failed = [run for run in runs if run in failures]
    for run in failed:
        typer.echo(plain(f"\n{run} failed with {failures[run]}"), err=True)
    if failed:
        noun = "run" if len(failed) == 1 else "runs"
        fail(f"{len(failed)} {noun} failed; the same command retries what failed.", code=1)
    if metric is not None and metric != summary.metric:
        logged = ", ".join(summary.metrics) or "nothing"
        fail(f"--metric {metric!r} was logged by no run, logged were: {logged}.")


def _planned(
    samplers: list[str],
    settings: Settings,
    grid: dict[str, tuple[str, ...]],
    seeds: int,
    composers: list[str],
) -> list[Run]:
    """Return all runs, once it is clear that every one of them can be built."""
    for name in check_names(samplers, settings, grid, composers):
        typer.echo(f"negplug: {{{name}}} in ARGS has no --grid and stays as it is.", err=True)
    runs = expand(samplers, settings, grid, seeds, composers)
    if composers and all(run.sampler == BASELINE for run in runs):
        raise ValueError(f"--compose has no effect with --sampler {BASELINE}; name a sampler too")
    for composer in dict.fromkeys(run.compose for run in runs if run.compose):
        check_treatment((), None, None, compose=composer)
    check_treatment(dict.fromkeys(run.sampler for run in runs), None, None)
    inputs = (filled(settings, run) for run in runs)
    for objective, temperature in dict.fromkeys((i.objective, i.temperature) for i in inputs):
        check_treatment((), objective, temperature)
    return runs
