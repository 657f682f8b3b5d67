"""``report.md`` and ``report.html`` of a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from negplug.cli.recommend.bench import Bench
from negplug.cli.recommend.choice import UNTOUCHED, Choice
from negplug.cli.recommend.figures import draw_pictures
from negplug.cli.recommend.verdict import Verdict
from negplug.cli.sweep.html import write_html
from negplug.cli.sweep.report import failed_runs, made_with, markdown_table
from negplug.cli.sweep.spread import mean_and_deviation


def write_report(
    bench: Bench,
    verdict: Verdict,
    choices: Sequence[Choice],
    selection: tuple[int, int | None],
    fresh: Sequence[int],
    command: str,
) -> Path:
    """Write both, with their pictures; returns the page.

    Args:
        bench: Has the runs.
        verdict: What is recommended.
        choices: The short list.
        selection: How many seeds chose, and of how many epochs a run is, if that is known.
        fresh: The seeds that measure.
        command: The command that makes it again.
    """
    out, metric = bench.out, bench.settings.metric
    pictures = draw_pictures(bench, verdict, choices)
    fence = ["```bash", verdict.line, "```", ""]
    lines = ["# negplug recommend", "", *fence, verdict.explanation, ""]
    header = ["choice", metric, "seconds of a run", "runs"]
    rows = [_row(bench, choice, fresh) for choice in (UNTOUCHED, verdict.choice)]
    lines += ["## Gain with fresh seeds", "", *markdown_table(header, rows), ""]
    lines += [
        f"Mean ± standard deviation over the seeds. Gain within seeds: {verdict.gain}, by "
        f"Student's t. Cost: {verdict.cost:.2f} times the untouched recipe's {verdict.cost_of}.",
        "",
    ]
    lines += ["## How it was chosen", ""]
    lines += [*markdown_table(["choice", metric, "end"], _ends(bench, choices, *selection)), ""]
    lines += [
        f"{metric}: last reported value where a run was stopped, mean over the selection seeds "
        "where it was not. Seed 0 stops who is not among the best third after a ninth and after a "
        "third of the epochs; the further selection seeds run those that are left.",
        "",
    ]
    for picture in pictures:
        lines += [f"![{picture.title}]({picture.file})", "", picture.caption, ""]
    lines += failed_runs(bench.study.failures())
    lines += ["## Made with", "", "```bash", command, "```", "", *made_with(), ""]
    report, page = out / "report.md", out / "report.html"
    report.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    write_html(report, pictures, page, "negplug recommend")
    return page


def _row(bench: Bench, choice: Choice, seeds: Sequence[int]) -> list[str]:
    found = bench.results()
    values = list(bench.values(choice, seeds).values())
    seconds = [found[run].seconds for run in map(choice.run, seeds) if run in found]
    return [str(choice), mean_and_deviation(values), mean_and_deviation(seconds), str(len(values))]


def _ends(
    bench: Bench, choices: Sequence[Choice], chosen_by: int, epochs: int | None
) -> list[list[str]]:
    stopped, reported = bench.study.stopped(), bench.study.reported()
    metric = bench.settings.metric
    rows = []
    for choice in (UNTOUCHED, *choices):
        run = choice.run(0)
        values = list(bench.values(choice, range(chosen_by)).values())
        if run in stopped:
            last = list(reported[run].values())[-1:]
            end = f"stopped after {stopped[run]} of {epochs} epochs"
            rows.append([str(choice), mean_and_deviation(last), end])
        elif values:
            count = f"{len(values)} seeds" if len(values) > 1 else "1 seed"
            rows.append([str(choice), mean_and_deviation(values), f"ran with {count}"])
        else:
            failed = run not in bench.results()
            rows.append([str(choice), "-", "failed" if failed else f"logged no {metric}"])
    return rows
