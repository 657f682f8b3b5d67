"""Loops compiled by numba, shared out to as many threads as torch uses.

A loop without threads serves small inputs, processes that have one thread (``torchrun`` sets
OMP_NUM_THREADS to 1), and forked processes: a pool of threads that numba started before the fork
aborts them (GNU OpenMP) or leaves them hanging.

Import this module only where numba is installed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import numba
import torch

from negplug.kernels.numba_private import keep_on_disk

# Not all of numba's thread pools may be entered twice at a time.
_pool = threading.Lock()

# If os.getpid() differs from this later on, this process is a fork.
_process = os.getpid()


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at the first call, and keep the result on disk if there is a place."""

    def compile_later(function: Callable[..., Any]) -> Callable[..., Any]:
        later: Any = numba.njit(nogil=True, **options)(function)
        keep_on_disk(later, function)
        return cast(Callable[..., Any], later)

    return compile_later


_IN_TURN = contextlib.nullcontext(False)


def threads(wanted: bool) -> contextlib.AbstractContextManager[bool]:
    """Say whether a loop may use threads, and let it have as many as torch uses.

    Args:
        wanted: False for an input too small for them.
    """
    return _threads() if wanted else _IN_TURN


@contextlib.contextmanager
def _threads() -> Iterator[bool]:
    config: Any = numba.config
    torchs = torch.get_num_threads()
    number = min(torchs, config.NUMBA_NUM_THREADS)
    if number == 1 or os.getpid() != _process:
        yield False
        return
    with _pool:
        before = numba.get_num_threads()
        numba.set_num_threads(number)
        if torch.get_num_threads() != torchs:
            # Numba's pool, where it is OpenMP's, has just been started: with as many threads as
            # there are cores, which torch then takes for its own number.
            torch.set_num_threads(torchs)
        try:
            yield True
        finally:
            numba.set_num_threads(before)
