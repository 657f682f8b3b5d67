"""Peak memory of one call, in a process of its own.

The number is the highest resident size during the call above the resident size just before it,
inputs included in the latter: what the call needs beside its arguments, gradients included. It
covers every allocator, unlike counters inside torch.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")

_WARM_UP = 64
"""Batch size of the call that loads libraries and starts threads: too small to leave
much memory, large enough for what competitors demand of a batch."""


def peak_extra_mib(
    setup: Callable[[int], Callable[[], object]], batch_size: int, threads: int
) -> float:
    """Return what a first call at ``batch_size`` needs on top, in MiB.

    Args:
        setup: Batch size → step; pickles.
        batch_size: Of the measured call.
        threads: torch's threads.

    Returns:
        NaN if the process died, which is most likely for want of memory.
    """
    # Spawned, not forked: a fork inherits the parent's peak and its broken thread pools.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, setup, batch_size, threads).result()
        except BrokenProcessPool:
            return math.nan


def _measure(setup: Callable[[int], Callable[[], object]], batch_size: int, threads: int) -> float:
    torch.set_num_threads(threads)
    setup(_WARM_UP)()
    step = setup(batch_size)
    before = _reset_peak()
    step()
    return max(0.0, _peak() - before)


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
