"""From rows to gains: each choice beside the tuned untouched recipe, paired by seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from choices import CHOICES, TUNED
from neighbours import Interval, Row, paired

AGAIN = range(100, 115)
"""The seeds of a second look, which no temperature and no choice was chosen by."""


def settings(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Returns the rows of each table, with its name: recipe, data set, B, and which look.

    More temperatures may be tried later on: of a choice, rows at its best one of all are returned.
    """
    tables: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        key = (str(row["recipe"]), str(row["data"]), int(str(row["batch_size"])))
        tables.setdefault(key, []).append(row)
    for key in sorted(tables, key=lambda key: (key[0] != "simclr", *key)):
        best = best_temperatures(row for row in tables[key] if row["split"] == "validation")
        looks: dict[str, list[Row]] = {"again": [], "first": []}
        for row in tables[key]:
            if row["split"] == "test" and number(row, "temperature") == best[str(row["choice"])]:
                looks["again" if int(number(row, "seed")) in AGAIN else "first"].append(row)
        for look, own in looks.items():
            if own:
                yield " ".join(map(str, (*key, look))), own


def best_temperatures(rows: Iterable[Row]) -> dict[str, float]:
    """Returns each choice's temperature with the best linear accuracy on the validation split."""
    best: dict[str, Row] = {}
    for row in rows:
        name = str(row["choice"])
        if name not in best or number(row, "linear_acc") > number(best[name], "linear_acc"):
            best[name] = row
    return {name: number(row, "temperature") for name, row in best.items()}


def gain(rows: Sequence[Row], baseline: Sequence[Row], column: str) -> Interval:
    """Returns the gain of a choice over another in an accuracy, in points.

    Args:
        rows: Of one choice, a row per seed.
        baseline: Of the other, with the same seeds.
        column: Name of the accuracy.

    Raises:
        ValueError: If a seed has no partner.
    """
    mine, others = (
        {int(number(row, "seed")): 100 * number(row, column) for row in each}
        for each in (rows, baseline)
    )
    if mine.keys() != others.keys():
        raise ValueError(f"seeds {sorted(mine)} and {sorted(others)} differ")
    return paired(mine, others)


def shown(found: Interval) -> str:
    """Returns an interval as tables have it; bold if it excludes zero."""
    text = f"{found.middle:+.1f} [{found.low:+.1f}, {found.high:+.1f}]".replace("-", "−")
    return f"**{text}**" if found.verdict else text


def by_choice(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each choice that was scored, in the order of the choices."""
    scored = [row for row in rows if row["split"] == "test"]
    grouped = {name: [row for row in scored if row["choice"] == name] for name in CHOICES}
    return {name: own for name, own in grouped.items() if own}


def table(rows: Iterable[Row], costs: Iterable[Row] = ()) -> str:
    """Returns a table in Markdown of the rows of one data set and batch size.

    Args:
        rows: Of ``study.py``.
        costs: Of ``cost.py``, for the same table; two more columns, if there are any.
    """
    choices = by_choice(rows)
    baseline = choices[TUNED]
    cost_of = {str(row["choice"]): row for row in costs}
    titles = ["", "τ", "linear, %", "gain [95 %]", "20-NN, %", "gain [95 %]"]
    titles += ["step, × untouched", "memory, MiB"] if cost_of else []
    lines = ["|".join(["", *(f" {title} " if title else " " for title in titles), ""])]
    lines.append("|---" * len(titles) + "|")
    for name, own in choices.items():
        cells = [name, f"{number(own[0], 'temperature'):g}"]
        for column in ("linear_acc", "knn_acc"):
            cells.append(f"{100 * statistics.fmean(number(row, column) for row in own):.1f}")
            cells.append("" if name == TUNED else shown(gain(own, baseline, column)))
        if cost_of:
            cells += spent(cost_of.get(name))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def costs_of(name: str, costs: Iterable[Row]) -> list[Row]:
    """Returns the rows of ``cost.py`` for a table of :func:`settings`, either look."""
    wanted = name.rpartition(" ")[0]
    columns = ("recipe", "data", "batch_size")
    return [row for row in costs if " ".join(str(row[key]) for key in columns) == wanted]


def spent(row: Row | None) -> list[str]:
    """Returns the cells of a choice's cost: a step's time beside the untouched one's, and MiB."""
    if row is None:
        return ["–", "–"]
    memory = number(row, "kept_mib") + max(0.0, number(row, "peak_extra_mib"))
    return [f"{number(row, 'times_untouched'):.2f}", f"{memory:.2f}"]


def number(row: Row, column: str) -> float:
    """Returns a number of a row."""
    return float(str(row[column]))
