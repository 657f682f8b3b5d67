"""``results.csv``: a row per finished run."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from negplug.cli.sweep.summary import Summary


def write_csv(summary: Summary, path: Path) -> None:
    """Write every finished run: sampler, setting, seed, seconds, then every metric.

    With a grid the column ``chosen`` is 1 for the runs at their sampler's best setting, which are
    those that tables and pictures show, and 0 for the others.
    """
    names, metrics = summary.names, summary.metrics
    whose = ["sampler", "compose"] if summary.composed else ["sampler"]
    header = [*whose, *names, "seed", *(["chosen"] if names else []), "seconds"]
    # A recipe may log its learning rate under the name that the grid has for it.
    header += [f"logged {name}" if name in header else name for name in metrics]
    write_rows(path, header, _rows(summary))


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, swapped in whole: another process of the same sweep may be writing too."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with partial.open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _rows(summary: Summary) -> Iterator[list[object]]:
    names = summary.names
    for name in summary.samplers:
        for place, (point, results) in enumerate(summary.ranking[name]):
            setting = dict(point)
            chosen = [int(place == 0)] if names else []
            for result in results:
                row: list[object] = [result.run.sampler]
                row += [result.run.compose] if summary.composed else []
                row += [*(setting.get(name, "") for name in names), result.run.seed]
                row += [*chosen, f"{result.seconds:.3f}"]
                yield row + [result.metrics.get(name, "") for name in summary.metrics]
