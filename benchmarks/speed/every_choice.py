"""What every sampler and every objective costs, beside Lightly's loss over the batch.

    python benchmarks/speed/every_choice.py

writes ``every_choice.csv`` to ``benchmarks/results``: forward and backward pass and update of every
sampler with ``infonce()``, of every objective with ``in_batch()``, and of ``ContrastiveLoss.pairs``
beside the losses that exist for two encoders. Memories are full. A host that is not installed is
left out. For figures to publish, have the machine for yourself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import torch
import typer
from choices import choice_step, of_two_views
from devices import CPU, DeviceOption, results_of
from harness import RESULTS, Question, Row, Setup, append, installed, show
from losses import CONFIG, DIMENSION, LIGHTLY, LIGHTLY_DCL, forward_backward, lightly
from two_towers import CLIP, of_two_towers

NAME = "every_choice"
BATCH_SIZES = (256, 1024)
HOST, TOWERS = "host", "two towers"


def setups() -> dict[tuple[str, str], Setup]:
    """Return (kind, competitor) → setup."""
    criteria = {LIGHTLY: "NTXentLoss", LIGHTLY_DCL: "DCLLoss"}
    hosts = installed(
        {
            name: ("lightly", functools.partial(lightly, criterion=criterion))
            for name, criterion in criteria.items()
        }
    )
    found: dict[tuple[str, str], Setup] = {
        (HOST, name): functools.partial(forward_backward, build) for name, build in hosts.items()
    }
    found |= {each: functools.partial(choice_step, each.name) for each in of_two_views()}
    return found | {(TOWERS, name): setup for name, setup in of_two_towers().items()}


def measure(
    chosen: list[str] | None, batch_size: int, threads: int, seconds: float, device: torch.device
) -> list[Row]:
    """Return one row per competitor, all timed round-robin.

    Args:
        chosen: Names of some, measured beside the hosts' losses; None for all.
        batch_size: B.
        threads: torch's threads.
        seconds: To spend on the rounds.
        device: What computes.
    """
    found = setups()
    kinds = {name: kind for kind, name in found}
    if unknown := set(chosen or ()) - set(kinds):
        raise typer.BadParameter(f"no choice {sorted(unknown)}; there are {list(kinds)}")
    question = Question(
        name=NAME,
        competitors={
            name: setup
            for (kind, name), setup in found.items()
            if not chosen or kind == HOST or name in chosen
        },
        baselines={"lightly": LIGHTLY, "clip": CLIP},
        config={"kind": None, **CONFIG},
        threads=threads,
        seconds=seconds,
        device=device,
    )
    rows = question.measure(batch_size)
    for row in rows:
        row["kind"] = kinds[str(row["competitor"])]
    return rows


COLUMNS = {
    "competitor": "loss",
    "median_ms": "median ms",
    "ratio_to_lightly": "Lightly ÷",
    "ratio_to_clip": "CLIP ÷",
    "peak_extra_mib": "peak MiB",
}
"""Key → heading of the printed table; ÷: the host's time divided by this loss's."""


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat for several")
    ] = None,
    choice: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per batch size, at five rounds least")] = 30,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Time and peak memory of every sampler and objective, beside Lightly's loss."""
    for batch_size in batch_sizes or BATCH_SIZES:
        rows = measure(choice, batch_size, threads, seconds, device)
        append(rows, results_of(results, device))
        title = f"B = {batch_size}, d = {DIMENSION}, {threads} threads"
        show(f"{title}, {rows[0]['rounds']} rounds", rows, COLUMNS)


if __name__ == "__main__":
    typer.run(main)
