"""Competitors side by side: time, peak memory, a CSV row for each, and a printed table.

Times are taken in one process, round-robin, so that whatever else the machine does hits every
competitor alike; ratios are medians over rounds of a baseline's time by the competitor's in the
same round. In a round a step runs twice: first in the wake of another competitor, as in a recipe,
where an encoder comes before it, and again in its own, as in a loop around nothing else. Peak
memory is taken in a fresh process for each competitor.
"""

from __future__ import annotations

import csv
import gc
import importlib.util
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from peak_memory import peak_extra_mib
from rich.console import Console
from rich.table import Table

Step = Callable[[], object]
Setup = Callable[[int], Step]
"""Batch size → a step with its inputs allocated; pickles, for the process of its own."""

Row = dict[str, object]

Candidate = TypeVar("Candidate")

RESULTS = Path(__file__).parents[1] / "results"

_MOST_ROUNDS = 200


class Taken(NamedTuple):
    """What a step took in each round, in seconds.

    Attributes:
        first: In the wake of another step.
        again: In its own.
    """

    first: list[float]
    again: list[float]


@dataclass(frozen=True)
class Question:
    """What is compared, and with what.

    Attributes:
        name: Of the CSV file and its column ``question``.
        competitors: Setups by name, in the order of the table.
        baselines: Short names of columns → competitors that ratios are taken to.
        config: Columns that all rows share, such as d and dtype.
        threads: torch's threads.
        seconds: Time to spend on one batch size.
    """

    name: str
    competitors: Mapping[str, Setup]
    baselines: Mapping[str, str]
    config: Mapping[str, object] = field(default_factory=dict)
    threads: int = 2
    seconds: float = 30.0

    def measure(self, batch_size: int) -> list[Row]:
        """Return one row per competitor at ``batch_size``."""
        torch.set_num_threads(self.threads)
        steps = {name: setup(batch_size) for name, setup in self.competitors.items()}
        times = interleaved(steps, self.seconds)
        del steps
        peaks = {
            name: peak_extra_mib(setup, batch_size, self.threads)
            for name, setup in self.competitors.items()
        }
        return [
            {
                "question": self.name,
                "competitor": name,
                "batch_size": batch_size,
                **self.config,
                **machine(self.threads),
                "rounds": len(taken.first),
                **quantiles(taken.first),
                "again_ms": round(1e3 * statistics.median(taken.again), 3),
                "peak_extra_mib": round(peaks[name], 1),
                **self._ratios(name, times, peaks),
            }
            for name, taken in times.items()
        ]

    def _ratios(self, name: str, times: dict[str, Taken], peaks: dict[str, float]) -> Row:
        """Return how many times faster and smaller ``name`` is; empty without the baseline."""
        ratios: Row = {}
        for short, baseline in self.baselines.items():
            faster = again = smaller = None
            if baseline in times:
                faster = paired_ratio(times[baseline].first, times[name].first)
                again = paired_ratio(times[baseline].again, times[name].again)
                smaller = round(peaks[baseline] / peaks[name], 2) if peaks[name] > 0 else math.inf
            ratios |= {
                f"ratio_to_{short}": faster,
                f"again_ratio_to_{short}": again,
                f"memory_ratio_to_{short}": smaller,
            }
        return ratios


def interleaved(steps: Mapping[str, Step], seconds: float, fewest: int = 5) -> dict[str, Taken]:
    """Time all steps round-robin, each twice in a round.

    Args:
        steps: By name.
        seconds: To spend in total; a round takes what it takes.
        fewest: Rounds, however long they take.

    Returns:
        By name.
    """
    names = list(steps)
    for name in names:
        steps[name]()
    start = time.perf_counter()
    for name in names:
        steps[name]()
    rounds = max(fewest, min(_MOST_ROUNDS, int(seconds / 2 / (time.perf_counter() - start))))
    times = {name: Taken([], []) for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            # In a new order: nobody always runs in the wake of the same one.
            for name in random.Random(number).sample(names, len(names)):
                for taken in times[name]:
                    start = time.perf_counter()
                    steps[name]()
                    taken.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return times


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two times."""
    pairs = zip(numerators, denominators, strict=True)
    return round(statistics.median(above / below for above, below in pairs), 2)


def quantiles(seconds: Sequence[float]) -> Row:
    """Return median, 20 % and 80 % quantile in milliseconds."""
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    middle = statistics.median(seconds)
    values = {"median_ms": middle, "q20_ms": fifths[0], "q80_ms": fifths[-1]}
    return {name: round(1e3 * value, 3) for name, value in values.items()}


def machine(threads: int) -> Row:
    """Return the columns that say where a row was measured."""
    libraries = ("lightly", "solo-learn", "negplug", "numba")
    versions = {name: _version(name) for name in libraries}
    return {
        "device": "cpu",
        "cpu_model": _cpu_model(),
        "threads": threads,
        # Large temporaries cost page faults, which huge pages save: hosts gain most by them.
        "huge_pages": os.environ.get("THP_MEM_ALLOC_ENABLE", "0"),
        "torch": torch.__version__,
        "hosts": "; ".join(f"{name} {found}" for name, found in versions.items() if found),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def installed(candidates: Mapping[str, tuple[str, Candidate]]) -> dict[str, Candidate]:
    """Return those whose module can be imported, and name the others on standard output.

    Args:
        candidates: Name → (the module that it needs, what is returned of it).
    """
    known = {}
    for name, (module, candidate) in candidates.items():
        if importlib.util.find_spec(module) is None:
            print(f"without {name}: {module} is not installed")
        else:
            known[name] = candidate
    return known


def append(rows: Sequence[Row], results: Path = RESULTS) -> Path:
    """Append rows to the CSV of their question, and return its path.

    Raises:
        ValueError: If the file has other columns.
    """
    path = results / f"{rows[0]['question']}.csv"
    results.mkdir(parents=True, exist_ok=True)
    known = path.read_text(encoding="utf-8").splitlines()[:1] if path.exists() else []
    if known and known[0].split(",") != list(rows[0]):
        raise ValueError(f"{path} has other columns than this version writes; move it away")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if not known:
            writer.writeheader()
        writer.writerows(rows)
    return path


def show(title: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Print a table.

    Args:
        title: Above the table.
        rows: As measured.
        columns: Key in a row → heading.
    """
    table = Table(title=title, title_justify="left")
    for key, heading in columns.items():
        table.add_column(heading, no_wrap=True, justify="left" if key == "competitor" else "right")
    for row in rows:
        table.add_row(*("–" if row[key] is None else str(row[key]) for key in columns))
    console = Console()
    if not console.is_terminal:
        # Into a file or a pipe nothing need be cut.
        console.width = 160
    console.print(table)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
