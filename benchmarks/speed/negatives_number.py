"""Time and memory against the number of negatives M, at a fixed batch size of 1,024.

    python benchmarks/speed/negatives_number.py

writes ``negatives_number.csv`` and ``negatives_number.png`` to ``benchmarks/results``: forward and
backward pass of the softmax loss with M negatives per anchor, drawn for each (by the kernel that
negplug takes, and under each backend) or shared by all, beside the losses over all 2B − 2, the
hosts' and ours. Where the kernel of choice leaves the line of its backend, a whole product has
become cheaper than the chosen columns (see ``chosen_columns.py``). For figures to publish, have the
machine for yourself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import torch
import typer
from devices import CPU, DeviceOption, results_of
from figure import BLUE, GREEN, LIGHTLY_LOOK, SOLO_LOOK, draw
from harness import RESULTS, Question, Row, Setup, Step, append, show
from losses import CONFIG, LIGHTLY, OURS, SOLO, by_backend, forward_backward, hosts, ours

BATCH_SIZE = 1024
ALL = 2 * BATCH_SIZE - 2
NUMBERS = (1, 4, 16, 64, 256, 1024)

OWN = "uniform(num_negatives=M)"
SHARED = "uniform(num_negatives=M, shared=True)"
LOOKS = {
    LIGHTLY: LIGHTLY_LOOK,
    SOLO: SOLO_LOOK,
    OURS: {"color": BLUE, "linewidth": 2.2},
    OWN: {"color": GREEN, "marker": "o", "linewidth": 2.2},
    f"{OWN}, numba": {"color": GREEN, "marker": "^", "linestyle": "--"},
    f"{OWN}, triton": {"color": GREEN, "marker": "^", "linestyle": "--"},
    f"{OWN}, torch": {"color": GREEN, "marker": "v", "linestyle": ":"},
    SHARED: {"color": BLUE, "marker": "D", "linestyle": "--"},
}


def drawing(number: int, shared: bool, batch_size: int, device: torch.device) -> Step:
    """Return forward and backward pass with M negatives per anchor.

    Args:
        number: M at a batch of :data:`BATCH_SIZE`; the same share of a smaller one, so that the
            call that warms up takes the same kernels.
        shared: Whether all anchors share them.
        batch_size: B.
        device: What computes.
    """
    share = max(1, number * batch_size // BATCH_SIZE)
    sampler = f"uniform(num_negatives={share}, shared={shared})"
    return forward_backward(functools.partial(ours, sampler=sampler), batch_size, device)


def setups(numbers: list[int], device: torch.device) -> dict[tuple[str, int], Setup]:
    """Return (competitor, M) → setup."""
    whole = {name: build for name, build in hosts().items() if name in LOOKS} | {OURS: ours}
    found: dict[tuple[str, int], Setup] = {
        (name, ALL): functools.partial(forward_backward, build) for name, build in whole.items()
    }
    for number in numbers:
        own = functools.partial(drawing, number, False)
        named = {OWN: own, **by_backend(OWN, own, device)}
        named[SHARED] = functools.partial(drawing, number, True)
        found |= {(name, number): setup for name, setup in named.items()}
    return found


def measure(numbers: list[int], threads: int, seconds: float, device: torch.device) -> list[Row]:
    """Return one row per competitor and M, all timed round-robin."""
    found = setups(numbers, device)
    keyed = {f"{name}, M = {number}": (name, number) for name, number in found}
    question = Question(
        name="negatives_number",
        competitors={label: found[key] for label, key in keyed.items()},
        baselines={short: f"{name}, M = {ALL}" for short, name in _BASELINES.items()},
        config={"num_negatives": None, **CONFIG},
        threads=threads,
        seconds=seconds,
        device=device,
    )
    rows = question.measure(BATCH_SIZE)
    for row in rows:
        row["competitor"], row["num_negatives"] = keyed[str(row["competitor"])]
    return rows


_BASELINES = {"lightly": LIGHTLY, "solo": SOLO, "in_batch": OURS}

COLUMNS = {
    "competitor": "loss",
    "num_negatives": "M",
    "median_ms": "median ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
    "ratio_to_lightly": "Lightly ÷",
    "ratio_to_solo": "solo ÷",
    "ratio_to_in_batch": "in_batch() ÷",
    "peak_extra_mib": "peak MiB",
}
"""Key → heading of the printed table; ÷: the number of a loss over all divided by this one's."""


def main(
    numbers: Annotated[
        list[int] | None, typer.Option("--num-negatives", help="M; repeat for several")
    ] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time in all, at five rounds least")] = 30,
    results: Annotated[Path, typer.Option(help="folder of table and plot")] = RESULTS,
) -> None:
    """Time and peak memory against the number of negatives, beside the losses over all."""
    folder = results_of(results, device)
    rows = measure(numbers or list(NUMBERS), threads, seconds, device)
    append(rows, folder)
    show(f"B = {BATCH_SIZE}, {threads} threads, {rows[0]['rounds']} rounds", rows, COLUMNS)
    axis = f"negatives per anchor M, of {ALL:,} (level lines: all of them)"
    print(draw(rows, LOOKS, folder / "negatives_number.png", "num_negatives", axis))


if __name__ == "__main__":
    typer.run(main)
