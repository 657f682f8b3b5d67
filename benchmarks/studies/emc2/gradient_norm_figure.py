"""The squared norm of the exact global gradient, and the global loss, over the samples seen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_figure import STYLES
from neighbours import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def ends(rows: Sequence[Row], column: str) -> dict[str, list[float]]:
    """Return where each run ended, by estimator, a value per seed.

    The last value of a column; at a constant learning rate the mean over the last quarter.
    """
    runs: dict[tuple[str, object], list[Row]] = {}
    for row in rows:
        runs.setdefault((str(row["estimator"]), row["seed"]), []).append(row)
    found: dict[str, list[float]] = {}
    for (name, _), own in runs.items():
        values = [float(str(row[column])) for row in own]
        last = 1 if own[0]["schedule"] == "cosine" else len(values) // 4
        found.setdefault(name, []).append(statistics.fmean(values[-last:]))
    return found


def draw(rows: Sequence[Row], path: Path) -> str:
    """Draw a curve per estimator: a small norm at a high loss is a plateau, and no success.

    Args:
        rows: Of runs that differ in estimator and seed alone.
        path: Where the PNG goes.

    Returns:
        The caption.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(9.6, 4.4), dpi=200, layout="constrained")
    norm, loss = picture.subplots(1, 2)
    _panel(norm, rows, "squared_norm", "squared norm of the exact global gradient")
    norm.set_yscale("log")
    _panel(loss, rows, "global_loss", "exact global loss")
    handles, names = norm.get_legend_handles_labels()
    picture.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
    row = rows[0]
    kept = "falling to 0" if row["schedule"] == "cosine" else "constant"
    seeds = len({row["seed"] for row in rows})
    caption = (
        f"SGD with batches of {row['batch_size']} on {row['size']} images with two fixed views, "
        f"τ = {row['temperature']}, learning rate {row['learning_rate']}, {kept}; "
        f"lines: mean of {seeds} seeds, bands: their range"
    )
    picture.suptitle(caption, fontsize=8.5, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Software": ""})
    return f"{path.name}: {caption}."


def _panel(axes: Axes, rows: Sequence[Row], column: str, title: str) -> None:
    """Draw a column over the samples seen, a curve per estimator."""
    for name, style in STYLES.items():
        points: dict[int, list[float]] = {}
        for row in rows:
            if row["estimator"] == name:
                seen = int(str(row["samples_seen"]))
                points.setdefault(seen, []).append(float(str(row[column])))
        if not points:
            continue
        mean = statistics.geometric_mean if column == "squared_norm" else statistics.fmean
        look: dict[str, Any] = {
            "markersize": 4,
            "linewidth": 1.4,
            "markevery": 4,
            "label": name,
        } | style
        axes.plot(list(points), [mean(own) for own in points.values()], **look)
        axes.fill_between(
            list(points),
            [min(own) for own in points.values()],
            [max(own) for own in points.values()],
            color=look["color"],
            alpha=0.12,
            linewidth=0,
        )
    axes.set_xlabel("samples seen", fontsize=8.5)
    axes.set_title(title, loc="left", fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(True, which="major", color="0.92", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
