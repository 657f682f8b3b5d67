"""Metropolis–Hastings chains: both backends beside the loop of EMC² as published.

    python benchmarks/speed/chain.py

writes ``chain.csv`` to ``benchmarks/results``: time and peak memory of the walk of 2B chains, one
for each anchor of a batch of B images in two views, from the same logits and noise. Proposals are
the B images, a state of which is both its views, or as in the published form all 2B views. The
published loop, which has no images, walks the same chains through the 2B views in either table; it
takes a view's B chains at a time, works on exponentials, and draws its uniforms inside. The lean
loop is :mod:`negplug.kernels.chain.reference`. Neighbours in memory are chains, as samplers hand
them over. For figures to publish, have the machine for yourself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import torch
import typer
from devices import CPU, DeviceOption, results_of
from harness import RESULTS, Question, Setup, Step, append, installed, show
from published_emc2 import masked_walk
from torch import Tensor
from torch.nn.functional import normalize
from views import correlated_views

from negplug.kernels.chain.reference import loop_walk
from negplug.kernels.chain.scan import scan_walk

DIMENSION = 128
TEMPERATURE = 0.1
BURN_IN = 0.5
PUBLISHED = "masked loop as published"
LOOP = "loop in log space"
SCAN = "negplug, torch scan"
COMPILED = "negplug, numba"
PROGRAM = "negplug, triton"


def chains(
    batch_size: int, device: torch.device, proposals: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scores, noise, initial scores and burn-in of chains in their stationary state.

    Args:
        batch_size: B.
        device: Where they lie.
        proposals: ``images`` or ``views``.
    """
    with torch.no_grad():
        z = normalize(torch.cat(correlated_views(batch_size, DIMENSION)), dim=1)
        scores = z @ z.T / TEMPERATURE
        own = torch.eye(batch_size, dtype=torch.bool).repeat(2, 2)
        scores.masked_fill_(own, -torch.inf)
        if proposals == "images":
            scores = scores.view(-1, 2, batch_size).logsumexp(1)
    generator = torch.Generator().manual_seed(1)
    gumbel = torch.empty_like(scores).exponential_(generator=generator).log_().neg_()
    initial = (scores + gumbel).argmax(1, keepdim=True)
    noise = torch.empty_like(scores).exponential_(generator=generator)
    burn_in = torch.full((len(scores),), int(BURN_IN * scores.shape[1]))
    start = scores.gather(1, initial)[:, 0]
    given = (scores.T.contiguous().T, noise.T.contiguous().T, start, burn_in)
    scores, noise, start, burn_in = (tensor.to(device) for tensor in given)
    return scores, noise, start, burn_in


def published(batch_size: int, device: torch.device) -> Step:
    """Return the walk as the authors run it: the chains of one view, then those of the other."""
    scores, _, initial, burn_in = chains(batch_size, device, "views")
    names = torch.arange(len(scores), device=device)
    passed = int(burn_in[0])
    # Of rows whose similarity is at most 1, so nothing overflows.
    halves = [half.exp().contiguous() for half in scores.chunk(2)]

    def step() -> None:
        for half, start, own in zip(halves, initial.chunk(2), names.chunk(2), strict=True):
            states = torch.full_like(own, -1)
            torch.cat(masked_walk(half, start.exp(), states, own, passed), dim=1)

    return step


def loop(batch_size: int, device: torch.device, proposals: str) -> Step:
    """Return the walk as a loop over proposals."""
    return functools.partial(loop_walk, *chains(batch_size, device, proposals))


def scan(batch_size: int, device: torch.device, proposals: str) -> Step:
    """Return the walk as an associative scan."""
    return functools.partial(scan_walk, *chains(batch_size, device, proposals))


def compiled(batch_size: int, device: torch.device, proposals: str) -> Step:
    """Return the walk as a compiled loop, compiled already."""
    from negplug.kernels.chain.compiled import compiled_walk

    compiled_walk(*chains(512, device, "images"))
    return functools.partial(compiled_walk, *chains(batch_size, device, proposals))


def program(batch_size: int, device: torch.device, proposals: str) -> Step:
    """Return the walk as a program in Triton."""
    from negplug.kernels.chain.fused import fused_walk

    return functools.partial(fused_walk, *chains(batch_size, device, proposals))


def question(proposals: str, threads: int, seconds: float, device: torch.device) -> Question:
    """Return all backends that are installed, as competitors."""
    setups: dict[str, Setup] = {PUBLISHED: published}
    setups[LOOP] = functools.partial(loop, proposals=proposals)
    setups[SCAN] = functools.partial(scan, proposals=proposals)
    quickest = {
        "cpu": {COMPILED: ("numba", functools.partial(compiled, proposals=proposals))},
        "cuda": {PROGRAM: ("triton", functools.partial(program, proposals=proposals))},
    }
    setups |= installed(quickest[device.type])
    config = {
        "proposals": proposals,
        "d": DIMENSION,
        "dtype": "float32",
        "temperature": TEMPERATURE,
        "burn_in": BURN_IN,
    }
    baselines = {"published": PUBLISHED, "loop": LOOP}
    return Question("chain", setups, baselines, config, threads, seconds, device)


COLUMNS = {
    "competitor": "walk",
    "median_ms": "median ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
    "ratio_to_published": "published ÷",
    "again_ms": "again ms",
    "again_ratio_to_published": "again ÷",
    "ratio_to_loop": "loop ÷",
    "peak_extra_mib": "peak MiB",
}
"""Key → heading of the printed table; ÷: that loop's time divided by this walk's."""


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat for several")
    ] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per table, at five rounds least")] = 10,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Time and peak memory of Metropolis–Hastings chains, beside a loop over proposals."""
    for proposals in ("images", "views"):
        asked = question(proposals, threads, seconds, device)
        for batch_size in batch_sizes or (32, 256, 1024):
            rows = asked.measure(batch_size)
            append(rows, results_of(results, device))
            width = batch_size if proposals == "images" else 2 * batch_size
            title = f"{2 * batch_size} chains of {width} {proposals}, {threads} threads"
            show(f"{title}, {rows[0]['rounds']} rounds", rows, COLUMNS)


if __name__ == "__main__":
    typer.run(main)
