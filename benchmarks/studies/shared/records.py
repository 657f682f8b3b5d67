"""Measurements that are kept: what the CSV file holds already is not measured again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from harness import Row, append


def completed(
    question: str,
    settings: Sequence[Any],
    measure: Callable[[Any], list[Row]],
    processes: int,
    results: Path,
) -> list[Row]:
    """Measure the settings that the question's file lacks, and return the rows of all.

    The rows of a setting are written when it is done, so that an interrupted call loses only
    what was under way. Of settings that were measured by several calls, the file may hold more
    than is returned.

    Args:
        question: Name of the CSV file.
        settings: Dataclasses whose fields are columns of the file.
        measure: Setting → its rows, on one thread.
        processes: Measurements at a time; several have a process of their own each.
        results: Folder of the file.

    Returns:
        Rows in the order of the settings, numbers as numbers.
    """
    known = stored(question, results)
    missing = [each for each in settings if not any(_is_of(row, each) for row in known)]
    print(f"{len(settings)} measurements, {len(settings) - len(missing)} of them known already")
    for number, (setting, rows) in enumerate(_measured(missing, measure, processes), 1):
        append(rows, results)
        print(f"{number}/{len(missing)}: {setting}, {rows[-1]['seconds']} s", flush=True)
    known = stored(question, results)
    return [row for each in settings for row in known if _is_of(row, each)]


def _measured(
    settings: Sequence[Any], measure: Callable[[Any], list[Row]], processes: int
) -> Iterator[tuple[Any, list[Row]]]:
    """Yield each setting with its rows, in the order in which they are done."""
    if processes == 1:
        # Another process would import and load everything anew.
        yield from ((each, measure(each)) for each in settings)
        return
    if not settings:
        return
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        pending = {pool.submit(measure, each): each for each in settings}
        for done in as_completed(pending):
            yield pending[done], done.result()


def stored(question: str, results: Path) -> list[Row]:
    """Return all rows of a question's file, numbers as numbers; none if there is no file."""
    path = results / f"{question}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _is_of(row: Row, setting: Any) -> bool:
    """Return whether a row belongs to a setting."""
    return all(row[key] == value for key, value in asdict(setting).items())


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
