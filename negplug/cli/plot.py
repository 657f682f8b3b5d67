"""``plot.png``: the first metric of a sweep, a row per sampler."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from negplug.cli.summary import Summary, deviation, mean, mean_and_deviation
from negplug.cli.treatment import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_plot(summary: Summary, path: Path) -> str | None:
    """Draw the first metric per sampler.

    Args:
        summary: The finished runs.
        path: Where the PNG goes.

    Returns:
        What the picture shows, as a caption; ``None`` if no run logged a metric.
    """
    from matplotlib.figure import Figure

    metric = summary.metric
    if metric is None:
        return None
    labels = [_wrapped(sampler) for sampler in summary.samplers]
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    figure = Figure(figsize=(7.5, 1.1 + 0.24 * lines), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    baseline = mean(summary.values(BASELINE, metric))
    if math.isfinite(baseline):
        axes.axvline(baseline, color="0.45", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for row, sampler in enumerate(summary.samplers):
        color = "0.35" if sampler == BASELINE else "#0b66a8"
        _draw_row(axes, row, summary.values(sampler, metric), color)
    axes.set_yticks(range(len(labels)), labels, family="monospace", fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _style(axes)
    axes.set_xlabel(metric, fontsize=9)
    if summary.repeated:
        explained = "mean ± 1 standard deviation over the seeds; small dots: single runs"
        axes.set_title(explained, loc="left", fontsize=8, color="0.35")
    figure.savefig(path, metadata={"Software": ""})
    return _caption(metric, summary.repeated, math.isfinite(baseline))


def _draw_row(axes: Axes, row: int, values: Sequence[float], color: str) -> None:
    """Draw one sampler: mean and deviation, and the runs just below them if there are several."""
    label = mean_and_deviation(values)
    axes.text(1.01, row, label, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return
    height = float(row)
    if len(values) > 1:
        height -= 0.08
        axes.plot(values, [row + 0.2] * len(values), "o", color=color, markersize=3, alpha=0.55)
    axes.errorbar(
        mean(values),
        height,
        xerr=deviation(values),
        fmt="o",
        color=color,
        markersize=6,
        capsize=3,
        linewidth=1.4,
    )


def _style(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _caption(metric: str, repeated: bool, baseline: bool) -> str:
    sentences = [f"`{metric}` per sampler, one run each."]
    if repeated:
        sentences = [
            f"`{metric}` per sampler.",
            "Large dots: mean over the seeds; error bars: ± 1 standard deviation over the seeds; "
            "small dots: single runs.",
        ]
    if baseline:
        sentences.append("Dashed line: the baseline.")
    return " ".join([*sentences, "The axis spans the values; it need not start at zero."])


def _wrapped(expression: str) -> str:
    """Break a long expression behind its commas."""
    lines = textwrap.wrap(expression, 42, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)
