"""What each choice costs: the time of a training step beside the untouched recipe's, and memory.

Usage: python cost.py                                   (some minutes on one core)
       python cost.py --data cameras --batch-size 32    (of these tables alone)

The choices of a table train in turns in one process, a step each, in a new order in every round, so
that whatever else the machine does hits all alike. Libraries load and memories fill in an epoch
that is not timed. A ratio is the median over rounds of two times of the same round. To compose the
batches takes longer at an epoch's first step, which is shared out among all of its steps.

Memory is what a choice keeps from step to step, and what torch allocates at the peak of one step
beyond the untouched recipe's peak. It is counted in bytes, so a busy machine changes nothing.

Rows go to ``which_sampler_cost.csv`` in ``benchmarks/results``, in place of the former ones of the
same tables; ``report.py`` puts them beside the gains.
"""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from choices import CHOICES, UNTOUCHED, choices_for
from neighbours import RESULTS, Row, append, machine, paired_ratio, seconds_of, stored
from torch.utils._pytree import tree_leaves
from training import Run, Training

QUESTION = "which_sampler_cost"

TABLES = {
    ("simclr", "cameras", 32): (3_000, 8),
    ("simclr", "cameras", 128): (3_000, 8),
    ("simclr", "fashion-mnist", 32): (4_000, 6),
    ("simclr", "fashion-mnist", 128): (4_000, 6),
    ("simclr", "fashion-mnist", 512): (12_000, 8),
    ("moco", "cameras", 32): (3_000, 8),
    ("moco", "fashion-mnist", 32): (4_000, 6),
}
"""Recipe, data set and batch size of the guide's tables → training images and epochs."""

ROUNDS = 60
"""The fewest steps of each choice that are timed, in whole epochs."""

_CPU = torch.device("cpu")


def measure(
    recipe: str,
    data: str,
    batch_size: int,
    names: Sequence[str],
    size: int,
    epochs: int,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Returns a row per choice.

    Args:
        recipe: Of the table.
        data: Likewise.
        batch_size: Likewise.
        names: Of the choices, the untouched recipe among them.
        size: Training images.
        epochs: Of a run; its last ones are trained, in which a scheduled choice does most.
        rounds: The fewest steps that are timed.
    """
    count = size // batch_size
    timed = -(-rounds // count)
    trainings = {}
    for name in names:
        where = (recipe, data, batch_size, name, CHOICES[name].temperatures[0])
        trainings[name] = Training(Run(*where, "validation", 0, size, epochs, 16, "cpu"))
    # One epoch ahead, and one for a step in its midst whose memory is read.
    first = max(0, epochs - timed - 1)
    trained = range(first, first + timed + 2)
    steps = {name: each.steps(trained) for name, each in trainings.items()}
    times = in_turns(steps, count, timed * count)
    untouched = times[UNTOUCHED]
    middles = {name: statistics.median(own) for name, own in times.items()}
    shares = {
        name: start_share(own, count) if CHOICES[name].compose else 0.0
        for name, own in times.items()
    }
    for each in steps.values():
        next(each)
    peaks = {name: peak_of(own) for name, own in steps.items()}
    return [
        {
            "question": QUESTION,
            "recipe": recipe,
            "data": data,
            "batch_size": batch_size,
            "choice": name,
            "rounds": timed * count,
            "step_ms": round(1e3 * (middles[name] + shares[name]), 3),
            "times_untouched": round(
                paired_ratio(times[name], untouched) + shares[name] / middles[UNTOUCHED], 2
            ),
            "kept_mib": round(kept_by(trainings[name]) / 2**20, 3),
            "peak_extra_mib": round((peaks[name] - peaks[UNTOUCHED]) / 2**20, 3),
            **machine(1, _CPU),
        }
        for name in names
    ]


def in_turns(steps: Mapping[str, Iterator[None]], ahead: int, timed: int) -> dict[str, list[float]]:
    """Returns the seconds of ``timed`` steps of each, after some that are not timed."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    try:
        for number in range(ahead + timed):
            # In a new order: nobody always runs in the wake of the same one.
            for name in random.Random(number).sample(list(steps), len(steps)):
                times[name].append(seconds_of(steps[name].__next__, _CPU))
    finally:
        gc.enable()
    return {name: own[ahead:] for name, own in times.items()}


def start_share(seconds: Sequence[float], count: int) -> float:
    """Returns what an epoch's first step takes beyond the median, for each of the epoch's steps.

    Args:
        seconds: Of each step of whole epochs.
        count: Steps of an epoch.
    """
    return (statistics.fmean(seconds[::count]) - statistics.median(seconds)) / count


def peak_of(steps: Iterator[None]) -> int:
    """Returns how many bytes torch holds at the peak of the next step beyond its beginning."""
    torch.manual_seed(0)  # Augmentations take what their draws ask for.
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        next(steps)
    events = profile.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        # One for each block that is taken, or given back: a negative number.
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def kept_by(training: Training) -> int:
    """Returns how many bytes a choice keeps from one step to the next, by its own state."""
    states = [each.state_dict() for each in (training.handle, training.batches) if each is not None]
    leaves = [leaf for leaf in tree_leaves(states) if isinstance(leaf, torch.Tensor)]
    return sum(leaf.nbytes for leaf in leaves)


def main(
    recipe: Annotated[list[str] | None, typer.Option(help="simclr, moco; repeat")] = None,
    data: Annotated[list[str] | None, typer.Option(help="data set; repeat")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="B; repeat")] = None,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Measure what the choices of each of the guide's tables cost."""
    torch.set_num_threads(1)
    gained = {
        (row["recipe"], row["data"], row["batch_size"], row["choice"])
        for row in stored("which_sampler", RESULTS)
    }
    for table, lengths in TABLES.items():
        asked = zip((recipe, data, batch_size), table, strict=True)
        if any(wanted and own not in wanted for wanted, own in asked):
            continue
        names = [name for name in choices_for(table[1], table[0]) if (*table, name) in gained]
        rows = measure(*table, names, *lengths)
        replace(table, rows, results)
        print(f"{table}: {len(rows)} choices", flush=True)


def replace(table: tuple[str, str, int], rows: Sequence[Row], results: Path) -> None:
    """Writes the rows of a table in place of the former ones."""
    others = [
        row
        for row in stored(QUESTION, results)
        if (row["recipe"], row["data"], row["batch_size"]) != table
    ]
    (results / f"{QUESTION}.csv").unlink(missing_ok=True)
    append([*others, *rows], results)


if __name__ == "__main__":
    typer.run(main)
