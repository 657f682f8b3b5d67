"""Run a function of a test in processes of its own, forked from one that has computed nothing.

The process of the tests has run backward passes, after which it cannot be forked beside a GPU.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from device import DEVICE
from systems import IS_LINUX
from torch.multiprocessing.spawn import start_processes

from negplug.testing import processes


def run(function: Callable[..., Any], world: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """Call ``function(rank, world, *args)`` on every rank; return the results in rank order."""
    _skip_elsewhere()
    return processes.run(_call, world, by_value(function, args), timeout=timeout)


def apart(function: Callable[[], Any]) -> Any:
    """Call a function in one process, which it may fork, as Lightning's strategies do.

    What it raises is told in the message of a ``ProcessRaisedException``. It returns tensors and
    built-in types.
    """
    _skip_elsewhere()
    if not IS_LINUX:
        pytest.skip("only on Linux may a process that has imported torch be forked")
    call = by_value(function, ())
    multiprocessing.set_forkserver_preload(processes.PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found"
        start_processes(_apart, (call, file), nprocs=1, start_method="forkserver")
        return torch.load(file, weights_only=False)


def join(rank: int, world: int) -> None:
    """Have every Trainer of this process be one of the ranks that are there already.

    Any other starts ranks of its own: each runs the command of this process, which is all tests.
    """
    own = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in own.items()})
    # Nobody listens there, since the ranks have joined a group before.
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})


def by_value(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """Pickle a call of a function that may be local; pytest's test modules cannot be imported."""
    module = sys.modules[function.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps((function, args))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _skip_elsewhere() -> None:
    if DEVICE.type != "cpu":
        pytest.skip("gloo joins the ranks, on the CPU")


def _apart(number: int, call: bytes, file: Path) -> None:
    gc.freeze()  # as the ranks of processes.run() do
    torch.set_num_threads(1)
    function, args = cloudpickle.loads(call)
    torch.save(function(*args), file)


def _call(rank: int, world: int, call: bytes) -> Any:
    function, args = cloudpickle.loads(call)
    return function(rank, world, *args)
