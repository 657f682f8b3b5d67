"""``plot.png``: the first metric of a sweep, a row per sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from negplug.cli.sweep.figures.style import BLUE, GREY, fits, new_figure, tidy, wrapped
from negplug.cli.sweep.spread import deviation, mean, mean_and_deviation
from negplug.cli.sweep.summary import Summary
from negplug.cli.treatment import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def samplers_figure(summary: Summary) -> tuple[Figure, str] | None:
    """Draw the first metric per sampler, at its best setting.

    Args:
        summary: The finished runs.

    Returns:
        The figure and its caption; ``None`` if no run logged a metric.
    """
    metric = summary.metric
    if metric is None:
        return None
    labels = [wrapped(sampler) for sampler in summary.samplers]
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    figure = new_figure(1.1 + 0.24 * lines + (0.15 if summary.treatment else 0.0))
    axes = figure.add_subplot()
    tidy(axes, grid="x")
    baseline = mean(summary.values(BASELINE, metric))
    if fits(baseline):
        axes.axvline(baseline, color="0.45", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for row, sampler in enumerate(summary.samplers):
        color = GREY if sampler == BASELINE else BLUE
        _draw_row(axes, row, summary.values(sampler, metric), color)
    axes.set_yticks(range(len(labels)), labels, family="monospace", fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel(metric, fontsize=9)
    explained = []
    if summary.repeated:
        explained.append("mean ± 1 standard deviation over the seeds; small dots: single runs")
    if summary.treatment:
        explained.append(summary.treatment)
    if explained:
        axes.set_title("\n".join(explained), loc="left", fontsize=8, color=GREY)
    return figure, _caption(summary, metric, fits(baseline))


def _draw_row(axes: Axes, row: int, values: Sequence[float], color: str) -> None:
    """Draw one sampler: mean and deviation, and the runs just below them if there are several."""
    label = mean_and_deviation(values)
    axes.text(1.01, row, label, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    values = [value for value in values if fits(value)]
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


def _caption(summary: Summary, metric: str, baseline: bool) -> str:
    where = " at its best setting" if summary.names else ""
    sentences = [f"`{metric}` per sampler{where}, one run each."]
    if summary.repeated:
        sentences = [
            f"`{metric}` per sampler{where}.",
            "Large dots: mean over the seeds; error bars: ± 1 standard deviation over the seeds; "
            "small dots: single runs.",
        ]
    if baseline:
        sentences.append("Dashed line: the baseline.")
    if summary.treatment:
        sentences.append(summary.treatment)
    return " ".join([*sentences, "The axis spans the values; it need not start at zero."])
