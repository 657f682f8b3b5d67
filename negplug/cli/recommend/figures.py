"""The pictures of a recommendation: who was stopped where, and the gain seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from negplug.cli.recommend.bench import Bench
from negplug.cli.recommend.choice import UNTOUCHED, Choice
from negplug.cli.recommend.verdict import Verdict
from negplug.cli.sweep.figures import Picture
from negplug.cli.sweep.figures.style import (
    BLUE,
    GREY,
    PALETTE,
    fits,
    legend,
    new_figure,
    or_gap,
    tidy,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_pictures(bench: Bench, verdict: Verdict, choices: Sequence[Choice]) -> list[Picture]:
    """Draw what the runs allow, into the folder of the report."""
    import matplotlib

    metric, stopped = bench.settings.metric, bench.study.stopped()
    pictures = []
    # A `$` in a metric's name is no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        gains = _gain_figure(verdict, metric)
        if gains is not None:
            gains.savefig(bench.out / "gain.png", metadata={"Software": ""})
            caption = (
                f"Gain in `{metric}` over the untouched recipe, {verdict.choice}. Small dots: "
                "one seed each; large dot and bar: mean and its 95 % interval. Dashed: no gain."
            )
            pictures.append(Picture("gain.png", f"gain in {metric}", caption))
        courses = _courses_figure(bench, choices)
        if courses is not None:
            courses.savefig(bench.out / "selection.png", metadata={"Software": ""})
            crosses = "Crosses: stopped there. " if stopped else ""
            caption = f"`{metric}` over training, seed 0. {crosses}Dashed: the untouched recipe."
            pictures.append(Picture("selection.png", f"{metric} over training", caption))
    return pictures


def _gain_figure(verdict: Verdict, metric: str) -> Figure | None:
    gain = verdict.gain
    if not all(map(fits, (gain.mean, gain.low, gain.high, *gain.differences.values()))):
        return None
    figure = new_figure(1.3)
    axes = figure.add_subplot()
    tidy(axes, grid="x")
    axes.axvline(0, color="0.45", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    differences = list(gain.differences.values())
    axes.plot(differences, [0.3] * len(differences), "o", color=BLUE, markersize=3, alpha=0.55)
    ends = [[gain.mean - gain.low], [gain.high - gain.mean]]
    axes.errorbar([gain.mean], [0], xerr=ends, fmt="o", color=BLUE, markersize=6, capsize=3)
    axes.set_yticks([0], [wrapped(str(verdict.choice), 30)], family="monospace", fontsize=8)
    axes.set_ylim(0.6, -0.5)
    axes.set_xlabel(f"gain in {metric}", fontsize=9)
    return figure


def _courses_figure(bench: Bench, choices: Sequence[Choice]) -> Figure | None:
    reported, stopped = bench.study.reported(), bench.study.stopped()
    drawn = [each for each in (UNTOUCHED, *choices) if len(reported.get(each.run(0), {})) > 0]
    if not any(len(reported[each.run(0)]) > 1 for each in drawn):
        return None
    figure = new_figure(3.0)
    axes = figure.add_subplot()
    tidy(axes, grid="y")
    for place, choice in enumerate(drawn):
        course = reported[choice.run(0)]
        epochs = list(course)
        values = list(map(or_gap, course.values()))
        style, color = ("--", GREY) if choice == UNTOUCHED else ("-", PALETTE[place % len(PALETTE)])
        label = wrapped(str(choice))
        axes.plot(epochs, values, style, color=color, linewidth=1.5, label=label)
        if choice.run(0) in stopped:
            axes.plot(epochs[-1:], values[-1:], "x", color=color, markersize=7)
    axes.set_xlabel("epochs", fontsize=9)
    axes.set_ylabel(bench.settings.metric, fontsize=9)
    legend(figure, *axes.get_legend_handles_labels())
    return figure
