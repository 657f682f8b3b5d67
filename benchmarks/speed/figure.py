"""Time and peak memory of the losses over the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Row
from losses import LIGHTLY, OURS, SOLO, TREATED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES: dict[str, dict[str, object]] = {
    LIGHTLY: {"color": "#b0482f", "marker": "o"},
    SOLO: {"color": "#d99a2b", "marker": "s"},
    OURS: {"color": "#0b66a8", "marker": "o", "linewidth": 2.2},
    "uniform(num_negatives=100)": {"color": "#4c9bd1", "marker": "^", "linestyle": "--"},
    "uniform(num_negatives=10)": {"color": "#4c9bd1", "marker": "v", "linestyle": ":"},
    "uniform(num_negatives=100, shared=True)": {
        "color": "#3f8f6b",
        "marker": "D",
        "linestyle": "-.",
    },
}
"""The treated host is left out: its points lie on those of :data:`OURS`."""


def draw(rows: Sequence[Row], path: Path) -> str:
    """Draw both panels.

    Args:
        rows: Of all batch sizes.
        path: Where the PNG goes.

    Returns:
        The caption.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.2, 4.1), dpi=200, layout="constrained")
    time, memory = picture.subplots(1, 2)
    for name, style in _STYLES.items():
        own = [row for row in rows if row["competitor"] == name]
        if not own:
            continue
        sizes = [row["batch_size"] for row in own]
        look = {"markersize": 4.5, "linewidth": 1.4, "label": _label(name)} | style
        medians = [row["median_ms"] for row in own]
        time.plot(sizes, medians, **look)
        time.fill_between(
            sizes,
            [row["q20_ms"] for row in own],
            [row["q80_ms"] for row in own],
            color=style["color"],
            alpha=0.15,
            linewidth=0,
        )
        memory.plot(sizes, [row["peak_extra_mib"] for row in own], **look)
    ticks = sorted({int(str(row["batch_size"])) for row in rows})
    _style(time, ticks, "forward + backward, ms")
    _style(memory, ticks, "peak memory beside the inputs, MiB")
    handles, labels = time.get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside lower center", ncols=3, fontsize=7.5, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Software": ""})
    row = rows[0]
    return (
        f"{path.name}: time (median; band: 20 to 80 % quantile) and peak memory of the in-batch "
        f"loss and of sampled ones, d = {row['d']}, {row['dtype']}, {row['threads']} threads of "
        f"{row['cpu_model']}; {TREATED!r} is measured too and coincides with {OURS!r}."
    )


def _label(name: str) -> str:
    return name if name in (LIGHTLY, SOLO) else f"negplug {name}"


def _style(axes: Axes, sizes: list[int], title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("batch size B (2B anchors)", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="0.9", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
