"""What a sweep found: ``results.csv``, the table in the terminal, ``plot.png``, ``report.md``."""

import csv
import math
import os
import platform
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negplug.cli.run import BASELINE
from negplug.cli.study import Result, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Summary", "draw_plot", "print_table", "write_csv", "write_report"]

# More columns than these do not fit a page; results.csv has them all.
_SIDE_METRICS = 3
_PACKAGES = (
    "negplug torch torchvision lightning pytorch-lightning lightly solo-learn numpy optuna"
).split()


@dataclass(frozen=True)
class Summary:
    """Finished runs, grouped by sampler: the baseline first, then in the order given.

    Args:
        results: The finished runs.
        order: Samplers in the order in which they are to appear; those left out come last.
        metric: Name of the metric shown first, or ``None`` for :attr:`metric`'s own choice.
    """

    results: Sequence[Result]
    order: Sequence[str]
    metric_wanted: str | None = None

    @cached_property
    def samplers(self) -> list[str]:
        """Samplers with at least one finished run."""
        finished = {result.run.sampler for result in self.results}
        ordered = dict.fromkeys([BASELINE, *self.order, *(r.run.sampler for r in self.results)])
        return [sampler for sampler in ordered if sampler in finished]

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics, in the order in which they were logged."""
        return list(dict.fromkeys(name for result in self.results for name in result.metrics))

    @cached_property
    def metric(self) -> str | None:
        """The metric shown first: the one asked for, else an accuracy, else the first logged."""
        if self.metric_wanted in self.metrics:
            return self.metric_wanted
        accuracies = [n for n in self.metrics if "acc" in n.lower() or "top1" in n.lower()]
        evaluated = [name for name in accuracies if "train" not in name.lower()]
        preferred = ["linear_acc"] if "linear_acc" in self.metrics else []
        return next(iter([*preferred, *evaluated, *accuracies, *self.metrics]), None)

    @cached_property
    def columns(self) -> list[str]:
        """Metrics that the tables show."""
        # Lightning logs `loss_step` and `loss_epoch` beside `loss`, which is the latter.
        echoes = {name + end for name in self.metrics for end in ("_step", "_epoch")}
        others = [name for name in self.metrics if name != self.metric and name not in echoes]
        return ([self.metric] if self.metric else []) + others[:_SIDE_METRICS]

    def sorted_results(self) -> list[Result]:
        """Finished runs by sampler, then seed."""
        rank = {sampler: i for i, sampler in enumerate(self.samplers)}
        return sorted(self.results, key=lambda r: (rank[r.run.sampler], r.run.seed))

    def values(self, sampler: str, metric: str) -> list[float]:
        """A metric of one sampler, one value per seed that logged it."""
        runs = (result for result in self.sorted_results() if result.run.sampler == sampler)
        return [result.metrics[metric] for result in runs if metric in result.metrics]

    def header(self) -> list[str]:
        """Column names of the tables."""
        return ["sampler", *self.columns, "seconds", "runs"]

    def rows(self) -> list[list[str]]:
        """Cells of the tables, one row per sampler."""
        rows = []
        for sampler in self.samplers:
            seconds = [r.seconds for r in self.results if r.run.sampler == sampler]
            cells = [_mean_and_deviation(self.values(sampler, name)) for name in self.columns]
            rows.append([sampler, *cells, _mean_and_deviation(seconds), str(len(seconds))])
        return rows

    def note(self) -> str:
        """What the numbers in the tables are."""
        hidden = len(self.metrics) > len(self.columns)
        more = f" All {len(self.metrics)} metrics are in results.csv." if hidden else ""
        return f"Mean ± standard deviation over the seeds.{more}"


def write_csv(summary: Summary, path: Path) -> None:
    """Write one row per finished run: sampler, seed, seconds, then every metric."""
    # Swapped in whole: another process of the same sweep may be writing too.
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "seed", "seconds", *summary.metrics])
        for result in summary.sorted_results():
            values = [result.metrics.get(name, "") for name in summary.metrics]
            seconds = f"{result.seconds:.3f}"
            writer.writerow([result.run.sampler, result.run.seed, seconds, *values])
    os.replace(partial, path)


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


def draw_plot(summary: Summary, path: Path) -> str | None:
    """Draw the first metric per sampler.

    Args:
        summary: The finished runs.
        path: Where the PNG goes.

    Returns:
        What the picture shows, as a caption; ``None`` if no run logged a metric.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metric = summary.metric
    if metric is None:
        return None
    labels = [_wrapped(sampler) for sampler in summary.samplers]
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    figure = Figure(figsize=(7.5, 1.1 + 0.24 * lines), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    baseline = _mean(summary.values(BASELINE, metric))
    if math.isfinite(baseline):
        axes.axvline(baseline, color="0.45", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for row, sampler in enumerate(summary.samplers):
        _draw_row(axes, row, summary.values(sampler, metric), is_baseline=sampler == BASELINE)
    axes.set_yticks(range(len(labels)), labels, family="monospace", fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(metric, fontsize=9)
    explained = "mean ± 1 standard deviation over the seeds; small dots: single runs"
    axes.set_title(explained, loc="left", fontsize=8, color="0.35")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, metadata={"Software": ""})
    reference = " Dashed line: mean of the baseline." if math.isfinite(baseline) else ""
    return (
        f"`{metric}` per sampler. Large dots: mean over the seeds; error bars: ± 1 standard "
        f"deviation over the seeds; small dots: single runs.{reference} The axis spans the "
        "values; it need not start at zero."
    )


def _draw_row(axes: "Axes", row: int, values: Sequence[float], *, is_baseline: bool) -> None:
    """Draw one sampler: its runs, and their mean and deviation just above them."""
    label = _mean_and_deviation(values)
    axes.text(1.01, row, label, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return
    color = "0.35" if is_baseline else "#0b66a8"
    axes.plot(values, [row + 0.2] * len(values), "o", color=color, markersize=3, alpha=0.55)
    axes.errorbar(
        _mean(values),
        row - 0.08,
        xerr=_deviation(values),
        fmt="o",
        color=color,
        markersize=6,
        capsize=3,
        linewidth=1.4,
    )


def write_report(
    summary: Summary, failures: Mapping[Run, str], command: str, caption: str | None, path: Path
) -> None:
    """Write the report, with the plot beside it embedded."""
    today = datetime.now().astimezone()
    # A pipe inside an expression must not end its table cell.
    rows = [[cell.replace("|", "\\|") for cell in row] for row in summary.rows()]
    for row in rows:
        row[0] = f"`{row[0]}`"
    header = summary.header()
    lines = [
        "# negplug sweep",
        "",
        "```bash",
        command,
        "```",
        "",
        f"- Date: {today:%Y-%m-%d %H:%M %Z}",
        f"- Device: {_device()}",
        f"- Versions: {_versions()}",
        "",
        "## Results",
        "",
    ]
    if rows:
        lines += [_markdown_row(header), _markdown_row(["---", *["---:"] * (len(header) - 1)])]
        lines += [*map(_markdown_row, rows), "", summary.note(), ""]
    else:
        lines += ["No run finished.", ""]
    if caption:
        lines += [f"![{summary.metric} per sampler](plot.png)", "", caption, ""]
    if failures:
        lines += ["## Failed runs", ""]
    for run, error in failures.items():
        lines += [f"`{run.sampler}`, seed {run.seed}:", "", "```text", error, "```", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; zero for a single value, which has no spread to show."""
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, deviation = _mean(values), _deviation(values)
    if len(values) == 1 or not math.isfinite(deviation):
        return f"{mean:.4g}"
    if deviation == 0:
        return f"{mean:.4g} ± 0"
    # Two digits of the deviation, and as many decimals of the mean.
    decimals = min(max(1 - math.floor(math.log10(deviation)), 0), 8)
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"


def _wrapped(expression: str) -> str:
    """Break a long expression behind its commas."""
    lines = textwrap.wrap(expression, 42, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _versions() -> str:
    found = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _device() -> str:
    """The accelerator that scripts find here, or the processor."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
