"""Peak memory of one call: what it needs beside its arguments, gradients included.

On a CPU the number is the highest resident size during the call above the resident size just before
it, inputs included in the latter, in a process of its own. It covers every allocator, unlike
counters inside torch. On a card those are all there is, and the call is one of this process.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from devices import CPU

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")

_WARM_UP = 64
"""Batch size of the call that loads libraries and starts threads: too small to leave
much memory, large enough for what competitors demand of a batch."""


Setup = Callable[[int, torch.device], Callable[[], object]]


def peak_extra_mib(
    setup: Setup, batch_size: int, threads: int, device: torch.device = CPU
) -> float:
    """Return what a first call at ``batch_size`` needs on top, in MiB.

    Args:
        setup: Batch size, device → step; pickles.
        batch_size: Of the measured call.
        threads: torch's threads.
        device: What computes.

    Returns:
        NaN if the process died, which is most likely for want of memory.
    """
    if device.type == "cuda":
        return _on_card(setup(batch_size, device), device)
    with ProcessPoolExecutor(1, mp_context=_context()) as pool:
        try:
            return pool.submit(_measure, setup, batch_size, threads).result()
        except BrokenProcessPool:
            return math.nan


def _context() -> multiprocessing.context.BaseContext:
    """Return how a process starts: with nothing of this one's, neither its peak nor its threads.

    On Linux it is forked from a server that has imported what takes seconds to import, where that
    is installed, and has computed nothing.
    """
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numba", "lightly.loss", "negplug.loss.contrastive"])
    return context


def _on_card(step: Callable[[], object], device: torch.device) -> float:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _measure(setup: Setup, batch_size: int, threads: int) -> float:
    torch.set_num_threads(threads)
    setup(_WARM_UP, CPU)()
    step = setup(batch_size, CPU)
    _give_back()
    before = _reset_peak()
    step()
    return max(0.0, _peak() - before)


def _give_back() -> None:
    """Give memory that is free back to the system, so that a step which takes it anew is charged.

    A setup may have made steps, to fill a queue, say. Only glibc keeps much, and can be asked.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _reset_peak() -> float:
    """Set the peak back to the present resident size and return that, in MiB."""
    try:
        _RESET.write_text("5", encoding="ascii")
        return _from_status("VmRSS")
    except OSError:
        # No such switch: the peak so far stands for the present size, so that imports which
        # needed more than the call can hide some of it.
        return _peak()


def _peak() -> float:
    if _STATUS.exists():
        return _from_status("VmHWM")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def _from_status(key: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 2**10
    raise OSError(f"{_STATUS} has no {key}")
