"""``negplug recommend``: the choices of negatives that suit a recipe, tried on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from negplug.cli.recommend.bench import Bench, BenchError
from negplug.cli.recommend.choice import UNTOUCHED, RecommendSettings
from negplug.cli.recommend.report import write_report
from negplug.cli.recommend.shortlist import choices_for, with_own
from negplug.cli.recommend.verdict import Verdict, verdict_on
from negplug.cli.sweep.command import as_typed, environment_of_runs
from negplug.cli.sweep.faults import one_sentence
from negplug.cli.sweep.ready import (
    check_given,
    check_installed,
    end_runs_on_signals,
    name_of,
    tell_of_another_script,
)
from negplug.cli.sweep.study import SweepStudy
from negplug.cli.terminal import plain
from negplug.cli.treatment import BASELINE, check_treatment, fail, name_overruled


def recommend(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="The training script.")],
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Logged metric that chooses and measures; of a validation split, for what chooses "
            "must not be the test set. Logged in every epoch, it stops early who is behind.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the study and its results.")
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- ARGS]",
            help="Handed to SCRIPT. '{seed}' becomes the seed of the run.",
        ),
    ] = None,
    minimize: Annotated[
        bool, typer.Option("--minimize", help="Less of --metric is better.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="B",
            min=2,
            help="Samples of a batch, over all ranks, which the short list goes by. Default: what "
            "the untouched run records.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="EXPR",
            help="Sampler expression to try beside the short list, such as one that knows the "
            "data: 'stratified(num_negatives=16, by=\"camera\", same=1.0)'. Repeat for several.",
        ),
    ] = None,
    temperature_option: Annotated[
        str | None,
        typer.Option(
            "--temperature-option",
            metavar="OPTION",
            help="SCRIPT's own option for its temperature, such as --temperature, or "
            "method_kwargs.temperature= (with '=': in one argument). Default: negplug sets it.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="K",
            min=2,
            help="Fresh seeds that measure the best choice beside the untouched recipe.",
        ),
    ] = 5,
    selection_seeds: Annotated[
        int,
        typer.Option("--selection-seeds", metavar="K", min=1, help="Seeds that choose, from 0 on."),
    ] = 2,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Optuna storage; default: DIR/study.db."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study", metavar="NAME", help="Study in --storage; default: the name of DIR."
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="End a run after so long, as failed."),
    ] = None,
) -> None:
    """Try a short list of negatives on SCRIPT, and say which one to use, or to keep what you have.

    The list depends on the batch size. Successive halving stops early what is behind. The best
    choice runs again beside the untouched recipe, with seeds that did not choose it. The last line
    can be pasted: the command, and its gain and cost as a comment.

    Started again, it goes on.
    """
    check_installed("recommend", ("optuna", "scipy", "matplotlib", "markdown_it"))
    check_given(script, study, storage, timeout)
    name_overruled({})
    own = tuple(also or ())
    if BASELINE in own:
        fail(f"--also {BASELINE!r} is what every choice is compared with; leave it out.")
    if own:
        check_treatment(own, None, None, option="--also")
    if re.search("(?<![a-z])test", metric.lower()):
        typer.echo(
            plain(
                f"negplug: --metric {metric!r} looks like one of the test split, and what chooses "
                "must not be that; name one of a validation split."
            ),
            err=True,
        )
    end_runs_on_signals()
    settings = RecommendSettings(
        script=str(script.resolve()),
        args=tuple(args or ()),
        objective=None,
        temperature=None,
        environment=environment_of_runs(),
        metric=metric,
        minimize=minimize,
        temperature_option=temperature_option,
    )
    name = (study or name_of(out)) if storage else "recommend"
    given = f"--study {name}" if storage else f"--out {out}"
    command = _again(script, settings, out, seeds, selection_seeds, batch_size, own)
    try:
        with one_sentence(out, given):
            if out.exists() and not out.is_dir():
                fail(f"--out {out} is no folder; give another.")
            out.mkdir(parents=True, exist_ok=True)
            try:
                shared = SweepStudy(storage or out / "study.db", name, settings, minimize)
            except ValueError as error:
                fail(f"{given}: {error}.")
            tell_of_another_script(shared, script)
            bench = Bench(shared, settings, str(script), out, timeout)
            try:
                verdict = _verdict(bench, batch_size, selection_seeds, seeds, command, own)
            except BenchError as error:
                fail(f"{error}.", code=1)
    except KeyboardInterrupt:
        typer.echo("negplug: stopped; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    typer.echo(plain(f"\n{verdict.explanation}\nReport: {out / 'report.html'}\n\n{verdict.line}"))


def _verdict(
    bench: Bench,
    batch_size: int | None,
    selection_seeds: int,
    seeds: int,
    command: str,
    own: Sequence[str] = (),
) -> Verdict:
    """Do what is still to do, and write the report."""
    typer.echo("The untouched recipe, with seed 0:")
    size, epochs = bench.untouched(batch_size)
    choices = [choice.in_reach(bench.settings) for choice in with_own(choices_for(size), own)]
    most = len(choices) * selection_seeds + 2 * seeds
    taken = bench.results()[UNTOUCHED.run(0)].seconds
    typer.echo(
        f"{len(choices)} choices for batches of {size}; at most {most} runs, and the untouched one "
        f"took {taken:.0f} s:"
    )
    if epochs is None:
        typer.echo(
            plain(f"{bench.settings.metric} is logged once a run, so none can be stopped early.")
        )
    best, used = bench.select(choices, epochs, selection_seeds)
    for run, told in bench.study.failures().items():
        why = told.splitlines()[-1].strip()  # of its log
        typer.echo(plain(f"negplug: {run} failed and is left out, see the report: {why}"), err=True)
    fresh = range(selection_seeds, selection_seeds + seeds)
    typer.echo(plain(f"{best} and the untouched recipe, with the fresh seeds:"))
    bench.compare(best, fresh)
    verdict = verdict_on(bench, best, len(choices), size, used, fresh)
    write_report(bench, verdict, choices, (used, epochs), fresh, command)
    return verdict


def _again(
    script: Path,
    settings: RecommendSettings,
    out: Path,
    seeds: int,
    selection_seeds: int,
    batch_size: int | None,
    own: Sequence[str],
) -> str:
    """Return the command that makes the recommendation."""
    command = ["negplug", "recommend", str(script), "--metric", settings.metric]
    command += ["--minimize"] if settings.minimize else []
    command += ["--batch-size", str(batch_size)] if batch_size is not None else []
    command += [part for sampler in own for part in ("--also", sampler)]
    option = settings.temperature_option
    command += ["--temperature-option", option] if option is not None else []
    command += ["--seeds", str(seeds), "--selection-seeds", str(selection_seeds)]
    command += ["--out", str(out)]
    return as_typed(command, settings)
