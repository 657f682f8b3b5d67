"""Tables and the picture of the rows that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neighbours import Row


def best_temperatures(rows: Sequence[Row]) -> dict[str, float]:
    """Returns each choice's temperature with the best linear accuracy on the validation split."""
    best: dict[str, Row] = {}
    for row in rows:
        name = str(row["choice"])
        if name not in best or _number(row, "linear_acc") > _number(best[name], "linear_acc"):
            best[name] = row
    return {name: _number(row, "temperature") for name, row in best.items()}


def table(rows: Sequence[Row]) -> str:
    return ""


def draw(table: Path, path: Path) -> str:
    return ""


def _number(row: Row, column: str) -> float:
    return float(str(row[column]))
