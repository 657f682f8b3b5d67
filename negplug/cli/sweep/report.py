"""What a sweep found, to read: the table in the terminal and ``report.md``."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negplug.cli.sweep.figures import Picture
from negplug.cli.sweep.summary import Summary
from negplug.cli.sweep.trials import Run
from negplug.contract.provenance import installed_version

_PACKAGES = (
    "negplug torch torchvision lightning pytorch-lightning lightly solo-learn numpy optuna"
).split()

# A longer table of grid points is for a program to read, which has results.csv.
_MOST_POINTS = 200


def print_table(summary: Summary) -> None:
    """Show the summary in the terminal."""
    # Where there is no terminal there is no width to keep to: one line per sampler.
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=box.SIMPLE_HEAD, caption=summary.note(), caption_justify="left")
    for i, name in enumerate(summary.header()):
        # Expressions wrap, values do not.
        table.add_column(Text(name), justify="right" if i else "left", no_wrap=i > 0)
    for row in summary.rows():
        table.add_row(*map(Text, row))
    console.print(table)


def write_report(
    summary: Summary,
    failures: Mapping[Run, str],
    command: str,
    pictures: Sequence[Picture],
    path: Path,
) -> None:
    """Write the report.

    Args:
        summary: The finished runs.
        failures: Runs that failed, with the end of their log.
        command: The command that makes the study.
        pictures: Pictures that lie beside the report.
        path: Where the report goes.
    """
    lines = [
        "# negplug sweep",
        "",
        "```bash",
        command,
        "```",
        "",
        *made_with(),
        "",
        "## Results",
        "",
    ]
    if summary.results:
        lines += [*markdown_table(summary.header(), summary.rows()), "", summary.note(), ""]
    else:
        lines += ["No run finished.", ""]
    for picture in pictures:
        lines += [f"![{picture.title}]({picture.file})", "", picture.caption, ""]
    lines += _all_settings(summary)
    lines += failed_runs(failures)
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")


def made_with() -> list[str]:
    """Return when and with what a report was made, as a list."""
    return [
        f"- Date: {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        f"- Device: {_device()}",
        f"- Versions: {_versions()}",
    ]


def failed_runs(failures: Mapping[Run, str]) -> list[str]:
    """Return the section of the runs that failed, with the end of their log."""
    lines = ["## Failed runs", ""] if failures else []
    for run, error in failures.items():
        setting = ", ".join([f"`{run.name}`", *(f"{n}={v}" for n, v in run.point)])
        # Longer than any fence that a log may hold.
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", error)), default=0))
        lines += [f"{setting}, seed {run.seed}:", "", f"{fence}text", error, fence, ""]
    return lines


def _all_settings(summary: Summary) -> list[str]:
    """The table of all grid points, folded away; nothing if each sampler has one."""
    rows = summary.all_rows()
    if len(rows) == len(summary.samplers):
        return []
    if len(rows) > _MOST_POINTS:
        return [f"All {len(rows)} settings are in results.csv.", ""]
    table = markdown_table(summary.header(), rows)
    order = ", the best first" if summary.chooses else ""
    title = f"<summary>All {len(rows)} settings, by sampler{order}</summary>"
    return ["<details>", title, "", *table, "", "</details>", ""]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table whose first column is code."""
    lines = [_markdown_row(header), _markdown_row(["---"] + ["---:"] * (len(header) - 1))]
    return lines + [_markdown_row([f"`{sampler}`", *cells]) for sampler, *cells in rows]


def _markdown_row(cells: Iterable[str]) -> str:
    # A pipe inside an expression must not end its cell.
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _versions() -> str:
    found = {name: installed_version(name) for name in _PACKAGES}
    listed = [f"{name} {number}" for name, number in found.items() if number]
    return ", ".join([f"python {platform.python_version()}", *listed])


def _device() -> str:
    """Return the accelerator that scripts find here, or the processor."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
