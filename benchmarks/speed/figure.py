"""Time and peak memory of competitors over what was varied, such as the batch size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, GREEN = "#0b66a8", "#3f8f6b"
LIGHTLY_LOOK = {"color": "#b0482f", "marker": "o"}
SOLO_LOOK = {"color": "#d99a2b", "marker": "s"}

_PANELS = {
    "median_ms": "forward + backward, ms",
    "peak_extra_mib": "peak memory beside the inputs, MiB",
}


def draw(
    rows: Sequence[Row], looks: Mapping[str, Mapping[str, Any]], path: Path, x: str, axis: str
) -> str:
    """Draw both panels, log-log. A competitor of a single row is a level line.

    Args:
        rows: As measured, in ascending order of ``x``.
        looks: Competitor → how its line looks; competitors without one are left out.
        path: Where the PNG goes.
        x: Column along the horizontal axis.
        axis: What that is called.

    Returns:
        The caption.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.2, 4.3), dpi=200, layout="constrained")
    panels = picture.subplots(1, 2)
    # A level line has no place.
    places = Counter(str(row["competitor"]) for row in rows)
    ticks = sorted({int(str(row[x])) for row in rows if places[str(row["competitor"])] > 1})
    for panel, (column, title) in zip(panels, _PANELS.items(), strict=True):
        for name, look in looks.items():
            own = [row for row in rows if row["competitor"] == name]
            if own:
                _line(panel, own, x, column, {"label": name, **look})
        _style(panel, ticks, title, axis)
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Software": ""})
    row = rows[0]
    where = row.get("gpu") or f"{row['threads']} threads of {row['cpu_model']}"
    return (
        f"{path.name}: time (median; band: 20 to 80 % quantile) and peak memory, d = {row['d']}, "
        f"{row['dtype']}, {where}"
    )


def _line(panel: Axes, own: Sequence[Row], x: str, column: str, look: dict[str, Any]) -> None:
    look = {"markersize": 4.5, "linewidth": 1.4, **look}
    if len(own) == 1:
        panel.axhline(own[0][column], **(look | {"marker": ""}))
        return
    places = [row[x] for row in own]
    panel.plot(places, [row[column] for row in own], **look)
    if column == "median_ms":
        low, high = ([row[f"{bound}_ms"] for row in own] for bound in ("q20", "q80"))
        panel.fill_between(places, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _style(axes: Axes, ticks: list[int], title: str, axis: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel(axis, fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="0.9", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
