"""What every exchange between ranks begins with: each rank says what it is about to do.

A collective waits for all ranks. A rank that has failed, or that takes another path, would leave
the others waiting until the group's timeout. So the ranks first exchange a few integers, and where
these do not go together every rank raises, in the same exchange, and none is left waiting.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from negplug.kernels import asked_for
from negplug.kernels.errors import RanksError
from negplug.kernels.meeting import SECONDS_OF_SILENCE, meet, seconds_of_patience
from negplug.kernels.torch_private import backward_runs
from negplug.kernels.waiting import waiting

_NUMBERS = 5
_UNKNOWN = -1
_LONGEST = 2000  # characters of an error's sentence


class Purpose(enum.IntEnum):
    """What an exchange is for."""

    FAILED = 0
    ROWS = 1
    COUNT = 2
    TERMS = 3
    END = 4
    RING = 5
    GRADIENT = 6


_DOES = {
    Purpose.FAILED: "has failed",
    Purpose.ROWS: "gathers rows",
    Purpose.COUNT: "counts its anchors",
    Purpose.TERMS: "compares its settings",
    Purpose.END: "ends the call",
    Purpose.RING: "passes its keys on around the ring",
    Purpose.GRADIENT: "is in its backward pass",
}

_announced = 0
_step: int | None = None
_loss: int | None = None


def within(step: int | None, loss: int | None) -> None:
    """Say what the exchanges to come are of; None where that is not known.

    Args:
        step: Number of the training step.
        loss: Number of the loss, the same on all ranks.
    """
    global _step, _loss
    _step, _loss = step, loss


def announced() -> int:
    """Return how often this process has announced rows or a count."""
    return _announced


def announce(
    purpose: Purpose, device: torch.device, numbers: Sequence[int] = (), said: bytes = b""
) -> list[list[int]]:
    """Exchange what every rank is about to do; return every rank's numbers, in rank order.

    Args:
        purpose: What for.
        device: Where the ranks exchange tensors.
        numbers: Up to five integers.
        said: What is told beside them if a rank has failed, see :func:`tell`.

    Raises:
        ValueError: If the ranks cannot exchange tensors there; before anything is exchanged.
        RanksError: If a rank has failed, or does something else; on every rank but those that
            have failed, which have an error of their own. If a rank never comes to an exchange,
            see :func:`negplug.kernels.meeting.meet`.
    """
    global _announced
    if not can_exchange(device):
        raise ValueError(
            f"the ranks exchange tensors on {default_device()}, but the embeddings of this one are "
            f"on {device}; move them"
        )
    meet()
    if purpose in (Purpose.ROWS, Purpose.COUNT, Purpose.RING):
        _announced += 1
    padding = [0] * (_NUMBERS - len(numbers))
    of = [_UNKNOWN if number is None else number for number in (_step, _loss)]
    header = torch.tensor([purpose, len(said), *of, *numbers, *padding], device=device)
    headers = [torch.empty_like(header) for _ in range(dist.get_world_size())]
    try:
        with waiting(_patience(), _DOES[purpose]):
            dist.all_gather(headers, header)
            everyones: list[list[int]] = torch.stack(headers).tolist()
    except RuntimeError as error:
        first = str(error).partition("\n")[0][:300]
        raise RanksError(
            f"this rank {_DOES[purpose]}, and another one has ended, or does something else: every "
            f"rank needs as many steps, and as many calls of the loss in each ({first})"
        ) from error
    purposes = [found[0] for found in everyones]
    if Purpose.FAILED in purposes:
        texts = _texts(said, [found[1] for found in everyones], device)
        if purpose != Purpose.FAILED:
            failed = purposes.index(Purpose.FAILED)
            raise RanksError(f"rank {failed} failed, so no rank goes on: {texts[failed]}")
    elif len(set(purposes)) > 1:
        does = [f"rank {n} {_DOES[Purpose(found)]}" for n, found in enumerate(purposes)]
        raise RanksError(
            f"the ranks take different paths: {', '.join(does)}; every rank needs the same "
            f"sampler and temperature, a host's loss that gathers on all or on none, a backward "
            f"pass of the same steps, and the same loaded state"
        )
    if at := _if_they_differ("in step", [found[2] for found in everyones]):
        raise RanksError(
            f"the ranks are in different training steps: {at}; a rank has left out a "
            f"step or its backward pass, or has called the loss once more, so have every rank take "
            f"every step"
        )
    if called := _if_they_differ("number", [found[3] for found in everyones]):
        raise RanksError(
            f"the ranks call different losses, counted as they were first called: {called}; have "
            f"all ranks call them in one order"
        )
    return [found[4:] for found in everyones]


def _if_they_differ(what: str, numbers: Sequence[int]) -> str:
    """Return whose number is which, of those that are known; empty if they are one."""
    known = {rank: number for rank, number in enumerate(numbers) if number != _UNKNOWN}
    if len(set(known.values())) < 2:
        return ""
    return ", ".join(f"rank {rank} {what} {number}" for rank, number in known.items())


def _patience() -> float:
    """Return for how many seconds nothing is said of a rank that waits."""
    # Between training steps a rank may take its time: it saves a checkpoint.
    seconds = seconds_of_patience()
    trains = torch.is_grad_enabled() or backward_runs()
    return seconds if trains else min(SECONDS_OF_SILENCE, seconds)


def default_device() -> torch.device:
    """Return where the ranks exchange tensors, if none says it."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def announce_gradient(device: torch.device) -> None:
    """Announce what a backward pass exchanges, where no device would have to be waited for.

    Raises:
        RanksError: If some ranks train and others only ask for a gradient, as a probe does; on
            every rank. The pass of the rank that trains would end, and the other one wait in its
            next pass for a rank that waits for it elsewhere: DDP exchanges gradients as well.
    """
    if device.type != "cpu":
        return
    asked = asked_for.inputs() is not None
    everyones = announce(Purpose.GRADIENT, device, [asked])
    asking = [rank for rank, (asks, *_) in enumerate(everyones) if asks]
    if 0 < len(asking) < len(everyones):
        raise RanksError(
            f"rank {', '.join(map(str, asking))} asks for a gradient (torch.autograd.grad, or "
            f"inputs= of backward) where others are in a whole backward pass; ask for it on "
            f"every rank or on none"
        )


def can_exchange(device: torch.device) -> bool:
    """Return whether the ranks can exchange tensors there."""
    return device.type == "cuda" or (device.type == "cpu" and dist.get_backend() != "nccl")


def tell(error: Exception, device: torch.device) -> None:
    """Tell the other ranks, which are in an exchange or about to begin one, of an error here."""
    said = f"{type(error).__name__}: {error}"[:_LONGEST]
    announce(Purpose.FAILED, device, said=said.encode(errors="replace"))


def exchanged(said: str, device: torch.device) -> list[str]:
    """Return what every rank says, in rank order.

    Raises:
        RanksError: As :func:`announce`.
    """
    own = said.encode()
    lengths = announce(Purpose.TERMS, device, [len(own)])
    return _texts(own, [length for length, *_ in lengths], device)


def _texts(own: bytes, lengths: list[int], device: torch.device) -> list[str]:
    """Return every rank's text; one message, padded to the longest."""
    padded = torch.zeros(max(*lengths, 1), dtype=torch.uint8, device=device)
    padded[: len(own)] = torch.tensor(list(own), dtype=torch.uint8, device=device)
    texts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(texts, padded)
    return [_decoded(text[:length]) for text, length in zip(texts, lengths, strict=True)]


def _decoded(text: Tensor) -> str:
    return bytes(text.tolist()).decode(errors="replace")
