"""The device under measurement: its name, its clock, its precisions, where its results go."""

from __future__ import annotations

import contextlib
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

CPU = torch.device("cpu")

FLOAT32 = "float32"
AUTOCAST = "bfloat16 autocast"
"""Values of the column ``dtype``: what the loss is called in, of float32 embeddings."""


def _known(name: str | torch.device) -> torch.device:
    if str(name).partition(":")[0] not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{str(name)!r} is neither 'cpu' nor 'cuda'")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA device here; take 'cpu'")
    return device


DeviceOption = Annotated[
    torch.device, typer.Option(parser=_known, metavar="[cpu|cuda]", help="what computes")
]


def model_of(device: torch.device) -> str:
    """Return the card's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def results_of(results: Path, device: torch.device) -> Path:
    """Return where a device's results go: a folder per card, beside the CPU's files."""
    if device.type == "cpu":
        return results
    return results / re.sub(r"[^a-z0-9]+", "-", model_of(device).lower()).strip("-")


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that losses are measured in."""
    return (FLOAT32, AUTOCAST) if device.type == "cuda" else (FLOAT32,)


def in_precision(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context of a forward pass; the backward pass stays outside, as torch asks."""
    if precision == AUTOCAST:
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Return how long a step takes.

    On a card from its launch on an idle device to the end of its last kernel, by CUDA's events:
    what the host takes to launch counts where the device has to wait for it.
    """
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def now(device: torch.device) -> float:
    """Return the time in seconds at which the device has done what it was asked so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
