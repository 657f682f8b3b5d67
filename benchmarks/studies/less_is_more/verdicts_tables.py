"""Tables in Markdown of the rows of ``paper_region.py`` and ``snr_at_one.py``, and of verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from neighbours import Interval, Row, paired

ALL = 0
OBJECTIVES = ("SimCLR", "ReLIC")
UNTRAINED = "untrained"

Seeds = Mapping[int, float]
"""Seed → value."""


def by_number(rows: Sequence[Row], column: str, scale: float = 1.0) -> dict[int, Seeds]:
    """Return M → seed → the column's value, all M last."""
    found: dict[int, dict[int, float]] = {}
    for row in rows:
        own = found.setdefault(int(str(row["num_negatives"])), {})
        own[int(str(row["seed"]))] = scale * float(str(row[column]))
    return dict(sorted(found.items(), key=lambda entry: (entry[0] == ALL, entry[0])))


def shown(interval: Interval) -> str:
    """Return an interval as tables print it."""
    return str(interval).replace("-", "−") if interval.count else "not run"


def accuracies(tested: Sequence[Row]) -> list[str]:
    """Return the lines of a table: the best setting of each M, on test images."""
    lines = [
        "| | M | τ | α | learning rate | accuracy (%) | minus all, points | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in OBJECTIVES:
        own = [row for row in tested if row["objective"] == name]
        found = by_number(own, "linear_acc", 100)
        for number, values in found.items():
            chosen = next(row for row in own if row["num_negatives"] == number)
            more = shown(paired(values, found[ALL])) if number != ALL and ALL in found else "–"
            alpha = chosen["alpha"] if name == "ReLIC" else "–"
            lines.append(
                f"| {name} | {number or 'all'} | {chosen['temperature']} | {alpha} | "
                f"{chosen['learning_rate']} | {statistics.fmean(values.values()):.1f} | {more} | "
                f"{len(values)} |"
            )
    bare = by_number([row for row in tested if row["objective"] == UNTRAINED], "linear_acc", 100)
    for values in bare.values():
        score = statistics.fmean(values.values())
        lines.append(f"| {UNTRAINED} | – | – | – | – | {score:.1f} | – | {len(values)} |")
    return lines


def told(found: Sequence[tuple[str, Interval, str]]) -> list[str]:
    """Return the lines of a table: finding, interval, how many values it is of, verdict."""
    lines = [
        "| the paper's finding | here, with 95 % interval | of | verdict |",
        "|---|---|---|---|",
    ]
    return lines + [
        f"| {finding} | {shown(interval)} | {interval.count} | **{verdict}** |"
        for finding, interval, verdict in found
    ]


def along(ratios: Sequence[Row]) -> list[str]:
    """Return the lines of a table: the mean ratio of each number of negatives along the runs."""
    if not ratios:
        return ["Not run yet."]
    steps = sorted({int(str(row["step"])) for row in ratios})
    titles = " | ".join(f"{step:,} steps" for step in steps)
    lines = [f"| mean of \\|E g\\|/std g | {titles} |", "|---" * (len(steps) + 1) + "|"]
    for name in OBJECTIVES:
        own = [row for row in ratios if row["objective"] == name]
        for number in by_number(own, "snr"):
            means = [
                statistics.fmean(
                    by_number([r for r in own if r["step"] == s], "snr")[number].values()
                )
                for s in steps
            ]
            lines.append(_line(f"{name}, M = {number or 'all'}", means))
    floors = {row["step"]: float(str(row["floor"])) for row in ratios}
    return [*lines, _line("pure noise", [floors[step] for step in steps])]


def _line(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"
