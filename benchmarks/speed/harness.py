"""Competitors side by side: time, peak memory, a CSV row for each, and a printed table.

Times are taken in one process, round-robin, so that whatever else the machine does hits every
competitor alike; ratios are medians over rounds of a baseline's time by the competitor's in the
same round. In a round a step runs twice: first in the wake of another competitor, as in a recipe,
where an encoder comes before it, and again in its own, as in a loop around nothing else. The
peak memory on a CPU is taken in a fresh process for each competitor.
"""

from __future__ import annotations

import csv
import gc
import importlib.util
import math
import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from devices import CPU, model_of, seconds_of
from peak_memory import peak_extra_mib
from rich.console import Console
from rich.table import Table

Step = Callable[[], object]
Setup = Callable[[int, torch.device], Step]
"""Batch size, device → a step with its inputs allocated; pickles, for the process of its own."""

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
        device: What computes.
    """

    name: str
    competitors: Mapping[str, Setup]
    baselines: Mapping[str, str]
    config: Mapping[str, object] = field(default_factory=dict)
    threads: int = 2
    seconds: float = 30.0
    device: torch.device = CPU

    def measure(self, batch_size: int) -> list[Row]:
        """Return one row per competitor at ``batch_size``, for which the device has the memory."""
        torch.set_num_threads(self.threads)
        steps = {name: setup(batch_size, self.device) for name, setup in self.competitors.items()}
        times = interleaved(steps, self.seconds, device=self.device)
        del steps
        peaks = {
            name: peak_extra_mib(self.competitors[name], batch_size, self.threads, self.device)
            for name in times
        }
        return [
            {
                "question": self.name,
                "competitor": name,
                "batch_size": batch_size,
                **self.config,
                **machine(self.threads, self.device),
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


def interleaved(
    steps: Mapping[str, Step], seconds: float, fewest: int = 5, device: torch.device = CPU
) -> dict[str, Taken]:
    """Time all steps round-robin, each twice in a round.

    Args:
        steps: By name.
        seconds: To spend in total; a round takes what it takes.
        fewest: Rounds, however long they take.
        device: What computes them.

    Returns:
        By name; without those for which the device has too little memory.
    """
    names = [name for name, step in steps.items() if _fits(name, step)]
    whole = sum(seconds_of(steps[name], device) for name in names)
    rounds = max(fewest, min(_MOST_ROUNDS, int(seconds / 2 / whole)))
    times = {name: Taken([], []) for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            # In a new order: nobody always runs in the wake of the same one.
            for name in random.Random(number).sample(names, len(names)):
                for taken in times[name]:
                    taken.append(seconds_of(steps[name], device))
    finally:
        gc.enable()
    return times


def _fits(name: str, step: Step) -> bool:
    """Return whether a first call finds the memory that it needs on a card; say so if not."""
    try:
        step()
    except torch.OutOfMemoryError:
        print(f"without {name}: it needs more memory than the device has")
        torch.cuda.empty_cache()
        return False
    return True


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


def machine(threads: int, device: torch.device = CPU) -> Row:
    """Return the columns that say where a row was measured."""
    on_card = device.type == "cuda"
    hosts = ("lightly", "solo-learn", "open-clip-torch", "sentence-transformers")
    libraries = (*hosts, "negplug", "triton" if on_card else "numba")
    versions = {library: _version(library) for library in libraries}
    return {
        "device": device.type,
        **({"gpu": model_of(device)} if on_card else {}),
        "cpu_model": model_of(CPU),
        "threads": threads,
        # Large temporaries cost page faults, which huge pages save: hosts gain most by them.
        "huge_pages": os.environ.get("THP_MEM_ALLOC_ENABLE", "0"),
        "torch": torch.__version__,
        "hosts": "; ".join(f"{library} {found}" for library, found in versions.items() if found),
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

    Columns that the file's rows do not have yet are empty there.

    Raises:
        ValueError: If the file has columns that the rows do not have.
    """
    path = results / f"{rows[0]['question']}.csv"
    results.mkdir(parents=True, exist_ok=True)
    columns, older = list(rows[0]), []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            older = list(reader)
        if unknown := set(reader.fieldnames or ()) - set(columns):
            raise ValueError(
                f"{path} has columns that this version does not write, {sorted(unknown)}: "
                "move it away"
            )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*older, *rows])
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
