"""A model on paper: what a global batch costs on many GPUs, gathered and around a ring.

Nothing here runs on a GPU. The rates of products were measured on one card; bandwidths and
latencies are assumptions, which options change. With G ranks of n rows (both views of each
sample), N = G·n rows in all, width d and rate R, a block of n keys takes

    4n²d/R forward (logits, and the anchors' gradient) and 4n²d/R backward (logits, the keys').

Gathered: the products of all N keys, and, before and after them, an all-gather of N rows with four
integers each and an all-reduce of N gradients, nothing of which overlaps:

    8nNd/R + (G−1)/G · (N(4d + 32) + 2N·4d)/W + 3 log₂(G) L,

with collectives whose latency L grows as a tree's, which favours them.

Around the ring, with its transfers behind the arithmetic: each of G − 1 turns takes the longer of
the two,

    max(4n²d/R, n(4d + 8)/W + L) forward,   max(4n²d/R, n(8d + 8)/W + 2L) backward,

and a last block's arithmetic and the gradient's way home stay. W is the slowest link's.

Memory is what a rank holds beside its model and its own embeddings, in float32: gathered, the keys
of all ranks, their gradient and the copy that is reduced, 3N·4d; around the ring two blocks, three
gradients of blocks (arriving, computed, on the way), and the anchors' sum and gradient, 7n·4d.

    python benchmarks/scale/model.py --write     # the tables of docs/how/scale.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how" / "scale.md"
BEGIN, END = "<!-- tables of benchmarks/scale/model.py -->", "<!-- end of the tables -->"

RATES = {"float16": 372.0, "float32": 121.0}
"""TFLOP/s of a loss, forward and backward, at d = 128 on one NVIDIA H200: 8.9 ms for B = 32,768 in
float16, 6.8 ms for B = 16,384 in float32 (as TF32), at 6(2B)²d operations. Measured on prototypes
of the Triton programs; assumed to hold for a block of the ring."""

GPUS = (8, 64, 256, 1024)
BATCHES = (32_768, 262_144, 1_048_576)


@dataclass(frozen=True)
class Assumed:
    """What no measurement of ours says.

    Attributes:
        rate: TFLOP/s of each GPU.
        inside: GB/s from a GPU to the next of its machine, in one direction.
        between: GB/s from a GPU to one of another machine.
        latency: Microseconds of a message.
        machine: GPUs of a machine.
        width: d.
    """

    rate: float = RATES["float16"]
    inside: float = 300.0
    between: float = 40.0
    latency: float = 20.0
    machine: int = 8
    width: int = 128

    def link(self, gpus: int) -> float:
        """Return bytes per second of the slowest link."""
        return 1e9 * (self.inside if gpus <= self.machine else self.between)


@dataclass(frozen=True)
class Cost:
    """What a step's loss costs a rank.

    Attributes:
        seconds: Its time.
        bytes: What it holds.
        waits: The part of the time in which a rank does not compute.
    """

    seconds: float
    bytes: float
    waits: float


def gathered(gpus: int, batch: int, assumed: Assumed) -> Cost:
    """Return the cost of ``gather()``."""
    rows, width, latency = 2 * batch, assumed.width, 1e-6 * assumed.latency
    computes = 8 * rows / gpus * rows * width / (1e12 * assumed.rate)
    sent = (gpus - 1) / gpus * rows * (4 * width + 32 + 8 * width)
    waits = sent / assumed.link(gpus) + 3 * math.log2(gpus) * latency
    return Cost(computes + waits, 3 * rows * 4 * width, waits / (computes + waits))


def around(gpus: int, batch: int, assumed: Assumed) -> Cost:
    """Return the cost of ``gather(ring=True)``."""
    rows, width, latency = 2 * batch / gpus, assumed.width, 1e-6 * assumed.latency
    link = assumed.link(gpus)
    block = 4 * rows * rows * width / (1e12 * assumed.rate)
    keys = rows * (4 * width + 8) / link + latency
    gradient = rows * 4 * width / link + latency
    turns = max(block, keys) + max(block, keys + gradient)
    seconds = (gpus - 1) * turns + 2 * block + gradient
    return Cost(seconds, 7 * rows * 4 * width, 1 - 2 * gpus * block / seconds)


def table(assumed: Assumed) -> str:
    """Return a table of Markdown."""
    lines = [
        "| B | GPUs | samples each | `gather()` | waits | holds | `gather(ring=True)` | waits | "
        "holds | logits, if kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for batch in BATCHES:
        for gpus in GPUS:
            plain, ring = gathered(gpus, batch, assumed), around(gpus, batch, assumed)
            logits = 2 * batch / gpus * 2 * batch * 4
            cells = [f"{batch:,}", f"{gpus:,}", f"{batch // gpus:,}"]
            for cost in (plain, ring):
                cells += [_time(cost.seconds), f"{cost.waits:.0%}", _size(cost.bytes)]
            lines.append(f"| {' | '.join([*cells, _size(logits)])} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _size(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count / 2**20:,.3g} MiB"


def page(text: str, assumed: Assumed) -> str:
    """Return the page with its tables written anew."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table(assumed)}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it to the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = Assumed()
    for name, what in (
        ("rate", "TFLOP/s of each GPU"),
        ("inside", "GB/s to a GPU of the same machine"),
        ("between", "GB/s to a GPU of another machine"),
        ("latency", "microseconds of a message"),
        ("machine", "GPUs of a machine"),
        ("width", "numbers of an embedding"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=what)
    parser.add_argument("--write", action="store_true", help=f"write to {PAGE.name}")
    given = vars(parser.parse_args(arguments))
    write, assumed = given.pop("write"), Assumed(**given)
    if write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), assumed), encoding="utf-8")
    else:
        print(table(assumed))


if __name__ == "__main__":
    main()
