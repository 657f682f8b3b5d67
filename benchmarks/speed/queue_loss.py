"""A queue of 65,536 keys beside both hosts' own: MoCo's loss with enqueueing, and enqueueing alone.

    python benchmarks/speed/queue_loss.py

writes ``queue_loss.csv`` and ``enqueue.csv`` to ``benchmarks/results``: forward and backward pass
of B queries against the queue with the B keys written, and what the queue costs beside the loss.
All queues are full. A host that is not installed is left out. For figures to publish, have the
machine for yourself.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from ceilings import Work, with_floor
from devices import CPU, FLOAT32, DeviceOption, results_of
from harness import RESULTS, Question, Row, Step, append, installed, show
from torch import Tensor
from views import correlated_views

import negplug

SIZE = 65_536
DIMENSION = 128
TEMPERATURE = 0.1
LIGHTLY = "Lightly NTXentLoss with bank"
SOLO = "solo-learn MoCoV2+ loss and queue"
TREATED = "Lightly NTXentLoss with bank, treated: queue()"
OURS = f"queue(size={SIZE})"


def pairs(batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return queries with and keys without gradient, ``[B, d]`` of unit length."""
    queries, keys = (
        torch.nn.functional.normalize(view.detach(), dim=1)
        for view in correlated_views(batch_size, DIMENSION, device=device)
    )
    return queries.requires_grad_(), keys


def lightly(batch_size: int, device: torch.device, treated: bool = False) -> Step:
    """Lightly's criterion: it clones its bank, concatenates the logits and writes the keys."""
    from lightly.loss import NTXentLoss

    criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(SIZE, DIMENSION))
    criterion.to(device)
    queries, keys = pairs(batch_size, device)
    if not treated:
        return lambda: _backward(queries, criterion(queries, keys))
    handle = negplug.inject(criterion, "queue()")
    treated_loss = next(iter(handle.losses.values())).loss
    fill(treated_loss.sampler, device)

    def step() -> None:
        _backward(queries, criterion(queries, keys))
        handle.end_step()

    return step


def solo(batch_size: int, device: torch.device) -> Step:
    """solo-learn's loss and queue, as one direction of its MoCoV2+ training step."""
    module = importlib.import_module("solo.losses")
    loss: Callable[..., Any] = (
        getattr(module, "mocov2plus_loss_func", None) or module.moco_loss_func
    )
    queries, keys = pairs(batch_size, device)
    queue = random_queue(device)
    place = 0

    def step() -> None:
        nonlocal place
        _backward(queries, loss(queries, keys, queue.clone().detach(), TEMPERATURE))
        queue[:, place : place + batch_size] = keys.T
        place = (place + batch_size) % SIZE

    return step


def ours(batch_size: int, device: torch.device) -> Step:
    """Our loss: the pool is the ring itself, streamed in tiles."""
    loss = negplug.ContrastiveLoss(OURS, temperature=TEMPERATURE).to(device)
    fill(loss.sampler, device)
    queries, keys = pairs(batch_size, device)

    def step() -> None:
        batch = negplug.ContrastiveBatch.from_pairs(queries, keys)
        _backward(queries, loss.contrast(batch))
        loss.end_step()

    return step


def lightly_enqueue(batch_size: int, device: torch.device) -> Step:
    """Lightly's bank alone."""
    from lightly.models.modules.memory_bank import MemoryBankModule

    bank = MemoryBankModule(size=(SIZE, DIMENSION)).to(device)
    _, keys = pairs(batch_size, device)
    return lambda: bank(keys, update=True)


def solo_enqueue(batch_size: int, device: torch.device) -> Step:
    """What solo-learn's training step does beside the loss: clone and write."""
    _, keys = pairs(batch_size, device)
    queue = random_queue(device)
    place = 0

    def step() -> None:
        nonlocal place
        queue.clone().detach()
        queue[:, place : place + batch_size] = keys.T
        place = (place + batch_size) % SIZE

    return step


def our_enqueue(batch_size: int, device: torch.device) -> Step:
    """Our queue alone: hand out the pool, take the keys."""
    sampler = negplug.make_sampler(OURS).to(device)
    fill(sampler, device)
    batch = functools.partial(negplug.ContrastiveBatch.from_pairs, *pairs(batch_size, device))

    def step() -> None:
        sampler(batch())
        sampler.flush()

    return step


def fill(sampler: negplug.NegativeSampler, device: torch.device) -> None:
    """Fill a queue, so that all of it serves."""
    sampler(negplug.ContrastiveBatch.from_pairs(*pairs(SIZE, device)))
    sampler.flush()


def random_queue(device: torch.device) -> Tensor:
    """Return a full queue as solo-learn keeps it, ``[d, K]``."""
    return torch.nn.functional.normalize(torch.randn(DIMENSION, SIZE), dim=0).to(device)


def work(row: Row) -> Work:
    """Return the work of a loss whose keys are frozen: the queue's rows are read in either pass."""
    pairs = int(str(row["batch_size"])) * SIZE
    return Work(4 * pairs * DIMENSION, 2 * 4 * SIZE * DIMENSION)


def questions(threads: int, seconds: float, device: torch.device) -> list[Question]:
    """Return the loss with enqueueing, and enqueueing alone."""
    treated = functools.partial(lightly, treated=True)
    losses = {
        LIGHTLY: ("lightly", lightly),
        SOLO: ("solo", solo),
        TREATED: ("lightly", treated),
        OURS: ("negplug", ours),
    }
    queues = {
        LIGHTLY: ("lightly", lightly_enqueue),
        SOLO: ("solo", solo_enqueue),
        OURS: ("negplug", our_enqueue),
    }
    config = {"queue": SIZE, "d": DIMENSION, "dtype": FLOAT32, "temperature": TEMPERATURE}
    baselines = {"lightly": LIGHTLY, "solo": SOLO}
    return [
        Question(name, installed(setups), baselines, config, threads, seconds, device)
        for name, setups in (("queue_loss", losses), ("enqueue", queues))
    ]


COLUMNS = {
    "competitor": "queue",
    "median_ms": "median ms",
    "q20_ms": "20 %",
    "q80_ms": "80 %",
    "ratio_to_lightly": "Lightly ÷",
    "ratio_to_solo": "solo ÷",
    "peak_extra_mib": "peak MiB",
}


def main(
    batch_size: Annotated[int, typer.Option(help="B")] = 256,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time per question")] = 20,
    results: Annotated[Path, typer.Option(help="folder of the tables")] = RESULTS,
) -> None:
    """Time and peak memory of a queue's loss and of enqueueing, beside the hosts' own."""
    for question in questions(threads, seconds, device):
        rows = question.measure(batch_size)
        if question.name == "queue_loss":
            with_floor(rows, device, work)
        append(rows, results_of(results, device))
        title = f"{question.name}: B = {batch_size}, K = {SIZE}, d = {DIMENSION}"
        show(f"{title}, {rows[0]['rounds']} rounds", rows, COLUMNS)


def _backward(queries: Tensor, loss: Tensor) -> None:
    queries.grad = None
    torch.autograd.backward(loss)


if __name__ == "__main__":
    typer.run(main)
