"""Measurements that are kept: what the CSV file holds already is not measured again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
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
        measure: Setting → its rows; called in a process of its own, with one thread.
        processes: Measurements at a time.
        results: Folder of the file.

    Returns:
        Rows in the order of the settings, numbers as numbers.
    """
    known = _stored(question, results)
    missing = [each for each in settings if not any(_is_of(row, each) for row in known)]
    print(f"{len(settings)} measurements, {len(settings) - len(missing)} of them known already")
    if missing:
        context = torch.multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context) as pool:
            pending = {pool.submit(measure, each): each for each in missing}
            for number, done in enumerate(as_completed(pending), 1):
                rows = done.result()
                append(rows, results)
                print(
                    f"{number}/{len(missing)}: {pending[done]}, {rows[-1]['seconds']} s", flush=True
                )
    known = _stored(question, results)
    return [row for each in settings for row in known if _is_of(row, each)]


def _stored(question: str, results: Path) -> list[Row]:
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
