"""The squared norm of the exact global gradient over the samples seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_figure import STYLES
from neighbours import Row


def final_rows(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the last row of each run, by estimator."""
    last: dict[tuple[object, object], Row] = {}
    for row in rows:
        last[row["estimator"], row["seed"]] = row
    ends: dict[str, list[Row]] = {}
    for (name, _), row in last.items():
        ends.setdefault(str(name), []).append(row)
    return ends


def draw(rows: Sequence[Row], path: Path) -> str:
    """Draw a curve per estimator.

    Args:
        rows: Of runs that differ in estimator and seed alone.
        path: Where the PNG goes.

    Returns:
        The caption.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.2, 4.6), dpi=200, layout="constrained")
    axes = picture.add_subplot()
    for name, style in STYLES.items():
        points: dict[int, list[float]] = {}
        for row in rows:
            if row["estimator"] == name:
                seen = int(str(row["samples_seen"]))
                points.setdefault(seen, []).append(float(str(row["squared_norm"])))
        if not points:
            continue
        means = [math.exp(sum(map(math.log, own)) / len(own)) for own in points.values()]
        look: dict[str, Any] = {
            "markersize": 4,
            "linewidth": 1.4,
            "markevery": 4,
            "label": name,
        } | style
        axes.plot(list(points), means, **look)
        axes.fill_between(
            list(points),
            [min(own) for own in points.values()],
            [max(own) for own in points.values()],
            color=style["color"],
            alpha=0.12,
            linewidth=0,
        )
    axes.set_yscale("log")
    axes.set_xlabel("samples seen", fontsize=8.5)
    axes.set_title("squared norm of the exact global gradient", loc="left", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="0.92", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Software": ""})
    row = rows[0]
    seeds = len({row["seed"] for row in rows})
    return (
        f"{path.name}: SGD with batches of {row['batch_size']} on {row['size']} images with two "
        f"fixed views, τ = {row['temperature']}, learning rate at most {row['learning_rate']} and "
        f"0 at the end; geometric mean and range over {seeds} seeds."
    )
