"""The tables of every choice on ``docs/how/cost.md``, from the newest rows of ``every_choice.csv``.

    python benchmarks/speed/cost_page.py

writes them, and so does ``all.py`` when it has measured a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from every_choice import BATCH_SIZES, HOST, NAME, TOWERS
from harness import RESULTS
from report import Record, newest, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how" / "cost.md"
BEGIN, END = "<!-- tables of benchmarks/speed/cost_page.py -->", "<!-- end of the tables -->"

_PARTS = {
    (HOST, "sampler"): ("sampler, with `infonce()`", "ratio_to_lightly"),
    (HOST, "objective"): ("objective", "ratio_to_lightly"),
    (TOWERS,): ("two towers", "ratio_to_clip"),
}
"""Kinds of rows in one table → its first heading, and whose time its ratios are to."""


def tables(records: Sequence[Record]) -> str:
    """Return a table for each part, a row per choice, the batch sizes side by side."""
    made = []
    for kinds, (corner, ratio) in _PARTS.items():
        headings = [corner]
        for batch_size in BATCH_SIZES:
            headings += [f"B = {batch_size:,}: ms", "times as fast", "MiB"]
        found = {(row["competitor"], int(row["batch_size"])): row for row in records}
        kind_of = {
            row["competitor"]: kind for kind in kinds for row in records if row["kind"] == kind
        }
        rows = []
        for name, kind in kind_of.items():
            cells = [_shown(name, kind)]
            for batch_size in BATCH_SIZES:
                cells += _cells(found.get((name, batch_size)), ratio)
            rows.append(cells)
        made.append(table(headings, rows))
    return "\n\n".join(made)


def _shown(name: str, kind: str) -> str:
    """Return a name, its expressions as code."""
    if kind in (HOST, TOWERS):
        return name
    return " with ".join(f"`{expression}`" for expression in name.split(" with "))


def _cells(row: Record | None, ratio: str) -> list[str]:
    if row is None:
        return ["–"] * 3
    ms, mib = float(row["median_ms"]), float(row["peak_extra_mib"])
    faster = f"{_rounded(float(row[ratio]), 2)}×" if row[ratio] else "–"
    return [_rounded(ms, 3), faster, f"{mib:.0f}"]


def _rounded(value: float, digits: int) -> str:
    """Return a number with so many digits, or its whole part if that has more."""
    return f"{value:.{digits}g}" if value < 10 ** (digits - 1) else f"{value:.0f}"


def conditions(records: Sequence[Record]) -> str:
    """Return when and where the rows were measured."""
    last = max(records, key=lambda row: row["date"])
    where = f"{last['threads']} threads of {last['cpu_model']}"
    return f"{last['date']}, {where}, torch {last['torch']}, {last['hosts']}."


def page(text: str, records: Sequence[Record]) -> str:
    """Return the page with its tables written anew."""
    between = f"{BEGIN}\n\n{tables(records)}\n\nMeasured on {conditions(records)}\n\n{END}"
    return re.sub(f"{BEGIN}.*{END}", lambda _: between, text, flags=re.DOTALL)


def write(results: Path = RESULTS) -> Path:
    """Write the tables to the page, and return its path."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), newest(results, NAME)), encoding="utf-8")
    return PAGE


if __name__ == "__main__":
    print(write())
