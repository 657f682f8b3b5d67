"""The error of the mean gradient over epochs, a panel per temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from estimators import PAPER, SIMCLR
from neighbours import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: dict[str, dict[str, object]] = {
    SIMCLR: {"color": "#b0482f", "marker": "o"},
    "in_batch()": {"color": "#d99a2b", "marker": "s"},
    "queue(size=2n)": {"color": "#8a8a8a", "marker": "v"},
    "memory_bank(momentum=0)": {"color": "#8a8a8a", "marker": "^", "linestyle": "--"},
    "SogCLR": {"color": "#7d4f9e", "marker": "D"},
    "gumbel_max, queue(size=2n)": {"color": "#3f8f6b", "marker": "P", "linestyle": "-."},
    PAPER: {"color": "0.15", "marker": "X"},
    "emc2, cached": {"color": "#4c9bd1", "marker": "<", "linestyle": "--"},
    "emc2, recompute": {"color": "#0b66a8", "marker": "<", "linewidth": 2.2},
    "isir, cached": {"color": "#5fb8ad", "marker": ">", "linestyle": "--"},
    "isir, recompute": {"color": "#13897b", "marker": ">", "linewidth": 2.2},
}
"""Of both experiments' pictures; estimators that are not here are in the tables alone."""


def draw(rows: Sequence[Row], path: Path) -> str:
    """Draw all temperatures.

    Args:
        rows: Of one size and batch size.
        path: Where the PNG goes.

    Returns:
        The caption.
    """
    from matplotlib.figure import Figure

    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    width = max(1.2 + 2.9 * len(temperatures), 5.5)
    picture = Figure(figsize=(width, 4.6), dpi=200, layout="constrained")
    panels = picture.subplots(1, len(temperatures), sharey=True, squeeze=False)[0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        own = [row for row in rows if row["temperature"] == temperature]
        for name, style in STYLES.items():
            points = [
                (row["averaged"], row["relative_error"]) for row in own if row["estimator"] == name
            ]
            if points:
                look = {"markersize": 4.5, "linewidth": 1.4, "label": name} | style
                axes.plot(*zip(*points, strict=True), **look)
        _style(axes, sorted({int(str(row["averaged"])) for row in own}), f"τ = {temperature}")
    errors = [float(str(row["relative_error"])) for row in rows if row["estimator"] in STYLES]
    panels[0].set_ylim(0.85 * min(errors), 1.15 * max(errors))
    panels[0].set_ylabel("relative error of the mean gradient", fontsize=8.5)
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=4 if width > 7 else 2,
        fontsize=7.5,
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Software": ""})
    row = rows[0]
    return (
        f"{path.name}: relative error of the gradient averaged over E epochs, frozen "
        f"embeddings ({row['embeddings']}), "
        f"n = {row['size']} images with two fixed views, batch size {row['batch_size']}. Dotted: "
        f"the slope 1/√E of an unbiased estimator; a curve that levels off shows its bias."
    )


def _style(axes: Axes, epochs: list[int], title: str) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for height in (0.1, 0.2, 0.4, 0.8, 1.6):
        guide = [height * (epochs[0] / e) ** 0.5 for e in epochs]
        axes.plot(epochs, guide, ":", color="0.75", linewidth=0.9, zorder=0)
    axes.set_xticks(epochs, [str(e) for e in epochs])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("epochs E", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="0.92", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
