"""``num_negatives.png``: what a sweep found against the number of negatives per anchor.

After figure 1 of Mitrovic, McWilliams & Rey 2020, "Less can be more in contrastive learning"
(PMLR v137): the accuracy against M, all negatives as a line of reference; below it how close the
images of a class lie, by which the paper explains it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from negplug.cli.sweep.figures.style import (
    GREY,
    PALETTE,
    fits,
    legend,
    new_figure,
    or_gap,
    tidy,
    wrapped,
)
from negplug.cli.sweep.spread import count, deviation, mean
from negplug.cli.sweep.summary import Summary
from negplug.cli.treatment import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Logged by recipes and callbacks, with or without a prefix.
_GEOMETRY = ("intra_class_distance", "silhouette")

# Closer than this, in powers of ten, two numbers on the axis would overlap.
_TICK_DISTANCE = 0.1


def num_negatives_figure(summary: Summary) -> tuple[Figure, str] | None:
    """Draw the first metric, intra-class distance and silhouette against the number of negatives.

    Args:
        summary: The finished runs.

    Returns:
        The figure and its caption; ``None`` unless at least two samplers differ in their number.
    """
    numbers = measured_numbers(summary)
    if summary.metric is None or len(set(numbers.values())) < 2:
        return None
    metrics = [summary.metric]
    for ending in _GEOMETRY:
        names = (name for name in summary.metrics if name.rpartition("/")[2] == ending)
        metrics += [name for name in names if name not in metrics][:1]
    families: dict[str, list[str]] = {}
    reference = reference_of(summary)
    # The reference has a line of its own, so that its point comes last and takes no colour.
    for sampler in sorted(numbers, key=lambda name: (name == reference, numbers[name])):
        families.setdefault(family(sampler), []).append(sampler)

    figure = new_figure(0.5 + 2.3 * len(metrics))
    panels = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        tidy(axes, grid="y")
        axes.set_ylabel(metric, fontsize=9)
        if reference is not None:
            _draw_reference(axes, summary.values(reference, metric), reference)
        for i, (name, samplers) in enumerate(families.items()):
            again = name == reference  # a label that begins with "_" is left out of the legend
            axes.errorbar(
                [numbers[sampler] for sampler in samplers],
                [or_gap(mean(summary.values(sampler, metric))) for sampler in samplers],
                yerr=[or_gap(deviation(summary.values(sampler, metric))) for sampler in samplers],
                fmt="o-",
                color=GREY if again else PALETTE[i % len(PALETTE)],
                markersize=5,
                capsize=3,
                linewidth=1.4,
                label="_" if again else wrapped(name),
            )
    _number_axis(panels[-1], sorted(set(numbers.values())))
    legend(figure, *panels[0].get_legend_handles_labels())
    return figure, _caption(summary, metrics, reference)


def measured_numbers(summary: Summary) -> dict[str, float]:
    """Return the number of negatives by sampler, of those for which it was logged."""
    numbers = {sampler: summary.num_negatives(sampler) for sampler in summary.samplers}
    return {sampler: number for sampler, number in numbers.items() if number > 0 and fits(number)}


def reference_of(summary: Summary) -> str | None:
    """Return the sampler that takes all negatives as the host does, if it ran."""
    return next((name for name in (BASELINE, "in_batch()") if name in summary.samplers), None)


def family(sampler: str) -> str:
    """Return what samplers have in common that differ in their number of negatives only."""
    return re.sub(r"\bnum_negatives=\d+", "num_negatives=M", sampler)


def _draw_reference(axes: Axes, values: list[float], name: str) -> None:
    center, spread = mean(values), deviation(values)
    if not (fits(center) and fits(spread)):
        return
    axes.axhline(center, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label=f"{name}: all")
    if spread > 0:
        axes.axhspan(center - spread, center + spread, color=GREY, alpha=0.12, linewidth=0)


def _number_axis(axes: Axes, numbers: list[float]) -> None:
    """Label a logarithmic axis with the numbers that were measured."""
    from matplotlib.ticker import NullLocator

    ticks: list[float] = []
    for number in reversed(numbers):
        if not ticks or math.log10(ticks[-1] / number) >= _TICK_DISTANCE:
            ticks.append(number)
    axes.set_xscale("log")
    axes.set_xticks(ticks[::-1], [count(number) for number in ticks[::-1]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("negatives per anchor, measured", fontsize=9)


def _caption(summary: Summary, metrics: list[str], reference: str | None) -> str:
    listed = ", ".join(f"`{metric}`" for metric in metrics)
    where = ", each sampler at its best setting" if summary.names else ""
    sentences = [f"{listed} against the number of negatives per anchor (logarithmic){where}."]
    spread = summary.repeated
    if spread:
        sentences.append("Error bars: ± 1 standard deviation over the seeds.")
    if reference is not None:
        band = " and band" if spread else ""
        sentences.append(f"Dashed line{band}: `{reference}`, which takes all negatives.")
    return " ".join(sentences)
