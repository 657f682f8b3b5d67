"""Accuracy and signal-to-noise ratio against the number of negatives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neighbours import Row, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"SimCLR": "#b0482f", "ReLIC": "#0b66a8"}
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 9}
SHIFT = {"SimCLR": -0.08, "ReLIC": 0.08}


def draw(region: Sequence[Row], ratios: Sequence[Row], path: Path) -> str:
    """Draw a panel for each table that has rows: means over seeds, 95 % intervals, seeds as dashes.

    Args:
        region: Rows of ``paper_region.py``.
        ratios: Rows of ``snr_at_one.py``; the last ones of each run are drawn.
        path: Where the PNG goes.

    Returns:
        The caption.
    """
    from matplotlib.figure import Figure

    tested = [row for row in region if row["scored"] == "test"]
    last = max((int(str(row["step"])) for row in ratios), default=0)
    ends = [row for row in ratios if row["step"] == last]
    panels = 2 if ends else 1
    picture = Figure(figsize=(4.8 * panels, 3.9), dpi=200, layout="constrained")
    accuracy, *more = picture.subplots(1, panels, squeeze=False)[0]
    _panel(accuracy, [row for row in tested if row["objective"] in COLOURS], "linear_acc", 100)
    bare = [100 * float(str(r["linear_acc"])) for r in tested if r["objective"] == "untrained"]
    if bare:
        _level(accuracy, mean(bare).middle, "untrained network")
    accuracy.set_ylabel("linear accuracy, test images (%)", fontsize=8.5)
    accuracy.set_title(
        f"best setting of each M; {_seeds(tested)} seeds, bars: 95 % interval", **TITLE
    )
    for snr in more:
        _panel(snr, ends, "snr", 1)
        _level(snr, float(str(ends[0]["floor"])), "pure noise")
        snr.set_ylabel(f"mean |E g|/std g after {last:,} steps", fontsize=8.5)
        snr.set_title(
            f"τ = {ends[0]['temperature']:g}; {_seeds(ends)} seeds, the same bars", **TITLE
        )
    for axes in (accuracy, *more):
        axes.set_xlabel("negatives per anchor, M, of the other view", fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.grid(True, axis="y", color="0.92", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Software": ""})
    return f"{path.name}: {len(tested)} test runs, {len(ends)} runs whose gradients were watched."


def _panel(axes: Axes, rows: Sequence[Row], column: str, scale: float) -> None:
    """Draw a column over M, each M at the same distance from the next."""
    numbers = sorted({int(str(row["num_negatives"])) for row in rows}, key=lambda m: (m == 0, m))
    for name, colour in COLOURS.items():
        places, middles, halves = [], [], []
        for place, number in enumerate(numbers):
            values = [
                scale * float(str(row[column]))
                for row in rows
                if row["objective"] == name and row["num_negatives"] == number
            ]
            if not values:
                continue
            interval = mean(values)
            places.append(place + SHIFT[name])
            middles.append(interval.middle)
            halves.append(interval.high - interval.middle)
            dots = [places[-1]] * len(values)
            axes.plot(dots, values, "_", color=colour, markersize=7, alpha=0.6)
        if places:
            axes.errorbar(
                places,
                middles,
                halves,
                color=colour,
                label=name,
                linewidth=1.3,
                capsize=3,
                marker="o",
            )
    axes.set_xlim(-0.5, len(numbers) - 0.5)
    axes.set_xticks(range(len(numbers)), [str(m or "all") for m in numbers])


def _level(axes: Axes, height: float, name: str) -> None:
    axes.axhline(height, color="0.5", linestyle=":", linewidth=1)
    axes.annotate(name, (-0.45, height), fontsize=7.5, color="0.4", va="bottom")


def _seeds(rows: Sequence[Row]) -> int:
    return len({row["seed"] for row in rows})
