"""``results.csv`` of a recommendation: a row per run that was finished or stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from negplug.cli.sweep.results import write_rows
from negplug.cli.sweep.trials import Result, Run

_HEADER = ("sampler", "objective", "temperature", "seed", "stopped_after", "seconds")


def write_csv(results: Mapping[Run, Result], stopped: Mapping[Run, int], path: Path) -> None:
    """Write the runs: choice, seed, after how many epochs it was stopped, seconds, then metrics."""
    metrics = list(dict.fromkeys(name for r in results.values() for name in r.metrics))
    logged = [f"logged {name}" if name in _HEADER else name for name in metrics]
    header = [*_HEADER, "step_seconds", *logged]
    write_rows(path, header, _rows(results, stopped, metrics))


def _rows(
    results: Mapping[Run, Result], stopped: Mapping[Run, int], metrics: list[str]
) -> Iterator[list[object]]:
    for run, result in results.items():
        step = "" if result.step_seconds is None else f"{result.step_seconds:.6g}"
        row = [*_choice(run), "", f"{result.seconds:.3f}", step]
        yield row + [result.metrics.get(name, "") for name in metrics]
    for run, epochs in stopped.items():
        yield [*_choice(run), epochs, "", "", *("" for _ in metrics)]


def _choice(run: Run) -> list[object]:
    point = dict(run.point)
    return [run.sampler, point.get("objective", ""), point.get("temperature", ""), run.seed]
