"""A whole sampling step of EMC²: negplug's backends beside the step as published.

    python benchmarks/speed/emc2_step.py

writes ``emc2_step.csv`` to ``benchmarks/results``. A step samples negatives for the 2B anchors of a
batch of B images in two views, computes what they add to the loss and its gradient to the batch's
rows, and moves the chains on. Embeddings of all n images are given and stay as they are; chains
have seen the data set a few times and are stationary. An image outside the batch is looked up:
published in the table, ours in its cache. The positives and the encoder are nobody's here. For
figures to publish, have the machine for yourself.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from backends import BACKENDS, under
from devices import CPU, DeviceOption, results_of
from harness import RESULTS, Question, Setup, Step, append, installed, show
from published_emc2 import PublishedEmc2
from torch import Tensor
from torch.nn.functional import normalize
from views import correlated_views

from negplug import ContrastiveBatch, make_sampler
from negplug.contract.draws import Draws
from negplug.objectives.logits import negative_term

SAMPLES = 4096
DIMENSION = 128
TEMPERATURE = 0.1
EPOCHS = 2
"""Before the clock starts."""
SHUFFLES = 4
"""Epochs of batches that are made beforehand, and come again and again."""

PUBLISHED = "EMC² as published"


def table(device: torch.device) -> Tensor:
    """Return the embeddings of all images, ``[2, n, d]``."""
    views = correlated_views(SAMPLES, DIMENSION, device=device)
    return normalize(torch.stack(views).detach(), dim=2)


def batches(batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield data set indexes of whole batches, shuffled, epoch after epoch."""
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed(epoch)
        whole = SAMPLES - SAMPLES % batch_size
        order = torch.randperm(SAMPLES, generator=generator)[:whole].to(device)
        yield from order.split(batch_size)


def warmed_up(step: Step, batch_size: int) -> Step:
    """Return a step whose chains are old."""
    for _ in range(EPOCHS * (SAMPLES // batch_size)):
        step()
    return step


def published(batch_size: int, device: torch.device) -> Step:
    """The authors' step."""
    rows, indexes = table(device), batches(batch_size, device)
    chains = PublishedEmc2(SAMPLES, 1 / TEMPERATURE, device=device)

    def embed(samples: Tensor) -> Tensor:
        return rows[0, samples].requires_grad_()

    def step() -> None:
        chosen = next(indexes)
        anchors = rows[:, chosen].flatten(0, 1).requires_grad_()
        chains.loss(anchors, chosen, embed).backward()

    return warmed_up(step, batch_size)


def ours(batch_size: int, device: torch.device, expression: str) -> Step:
    """The step of one of negplug's samplers."""
    given, numbers = itertools.cycle(_made(batch_size, device)), itertools.count()
    sampler = make_sampler(expression).to(device)

    def step() -> None:
        batch = next(given).within(Draws(step=next(numbers)), TEMPERATURE)
        value = negative_term(batch, sampler(batch), TEMPERATURE).mean()
        torch.autograd.grad(value, batch.anchors.embeddings)
        sampler.flush()

    return warmed_up(step, batch_size)


def _made(batch_size: int, device: torch.device) -> list[ContrastiveBatch]:
    """Return the batches of a few epochs, whose making is no part of the step."""
    rows, found = table(device), []
    number = SHUFFLES * (SAMPLES // batch_size)
    for chosen in itertools.islice(batches(batch_size, device), number):
        views = tuple(view[chosen].requires_grad_() for view in rows)
        found.append(ContrastiveBatch.from_views(views, chosen))
    return found


def question(threads: int, seconds: float, device: torch.device) -> Question:
    """Return the published step, and both samplers under each backend that is installed."""
    setups: dict[str, Setup] = {PUBLISHED: published}
    for name in ("emc2", "isir"):
        setup = functools.partial(ours, expression=f"{name}(size={SAMPLES})")
        candidates = {
            f"{name}(), {backend}": (module, functools.partial(under, backend, setup))
            for backend, module in BACKENDS[device.type].items()
        }
        setups |= installed(candidates)
    config = {
        "samples": SAMPLES,
        "d": DIMENSION,
        "dtype": "float32",
        "temperature": TEMPERATURE,
        "out_of_batch": "cached",
    }
    baselines = {"published": PUBLISHED}
    return Question("emc2_step", setups, baselines, config, threads, seconds, device)


COLUMNS = {
    "competitor": "sampling step",
    "median_ms": "median ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
    "ratio_to_published": "published ÷",
    "again_ms": "again ms",
    "again_ratio_to_published": "again ÷",
    "peak_extra_mib": "peak MiB",
}
"""Key → heading of the printed table; ÷: the published step's time divided by this one's."""


def main(
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="B; repeat for several")
    ] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per table, at five rounds least")] = 10,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Time and peak memory of a sampling step of EMC², beside the published one."""
    asked = question(threads, seconds, device)
    for batch_size in batch_sizes or (32, 256):
        rows = asked.measure(batch_size)
        append(rows, results_of(results, device))
        title = f"sampling step, B = {batch_size}, {threads} threads"
        show(f"{title}, {rows[0]['rounds']} rounds", rows, COLUMNS)


if __name__ == "__main__":
    typer.run(main)
