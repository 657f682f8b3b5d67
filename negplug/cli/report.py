"""What a sweep found, to read: the table in the terminal and ``report.md``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negplug.cli.study import Run
from negplug.cli.summary import Summary
from negplug.provenance import installed_version

_PACKAGES = (
    "negplug torch torchvision lightning pytorch-lightning lightly solo-learn numpy optuna"
).split()


def print_table(summary: Summary) -> None:
    """Show the summary in the terminal."""
    # Where there is no terminal there is no width to keep to: one line per sampler.
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=box.SIMPLE_HEAD, caption=summary.note(), caption_justify="left")
    for i, name in enumerate(summary.header()):
        # Expressions wrap, numbers do not.
        table.add_column(Text(name), justify="right" if i else "left", no_wrap=i > 0)
    for row in summary.rows():
        table.add_row(*map(Text, row))
    console.print(table)


def write_report(
    summary: Summary, failures: Mapping[Run, str], command: str, caption: str | None, path: Path
) -> None:
    """Write the report.

    Args:
        summary: The finished runs.
        failures: Runs that failed, with the end of their log.
        command: The command that makes the study.
        caption: Caption of ``plot.png``, which lies beside the report; ``None`` without plot.
        path: Where the report goes.
    """
    lines = [
        "# negplug sweep",
        "",
        "```bash",
        command,
        "```",
        "",
        f"- Date: {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        f"- Device: {_device()}",
        f"- Versions: {_versions()}",
        "",
        "## Results",
        "",
        *(_markdown_table(summary) if summary.results else ["No run finished."]),
        "",
    ]
    if caption:
        lines += [f"![{summary.metric} per sampler](plot.png)", "", caption, ""]
    if failures:
        lines += ["## Failed runs", ""]
    for run, error in failures.items():
        lines += [f"`{run.sampler}`, seed {run.seed}:", "", "```text", error, "```", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _markdown_table(summary: Summary) -> list[str]:
    lines = [_markdown_row(summary.header())]
    lines.append(_markdown_row(["---"] + ["---:"] * (len(summary.header()) - 1)))
    for sampler, *cells in summary.rows():
        lines.append(_markdown_row([f"`{sampler}`", *cells]))
    return [*lines, "", summary.note()]


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
