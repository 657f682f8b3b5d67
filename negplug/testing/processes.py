"""A function on several real processes, joined by gloo.

On Linux the processes are forked from Python's fork server, a process that has imported torch and
this package and has computed nothing. The caller's own process will not do: beside an accelerator
autograd has threads there since the first backward pass, and CUDA its context, and neither lives
on in a fork. Elsewhere each process starts from nothing, which takes seconds.

Either way a function and its arguments travel by pickle, so they must be importable, and a script
that gets here must do so behind ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import datetime
import gc
import multiprocessing
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Its functions take the group that there is when it is imported as a default argument, for good.
import torch.distributed.nn
from torch.multiprocessing.spawn import start_processes

PRELOADED = ["negplug.testing.preloaded"]
"""What the fork server imports when it starts; add what many ranks need before the first run."""

# How long ranks may take to import what they run, before they exchange anything.
_JOINING = datetime.timedelta(minutes=10)

# Whether this process is a rank that imports what it is to run.
_loading = False


def run(
    function: Callable[..., Any],
    world: int,
    *args: Any,
    timeout: float = 60.0,
    start_method: str | None = None,
) -> list[Any]:
    """Call ``function(rank, world, *args)`` on every rank; return the results in rank order.

    Args:
        function: Returns tensors and built-in types.
        world: Number of ranks.
        *args: Handed on.
        timeout: Seconds that a rank waits for another one in an exchange.
        start_method: As multiprocessing names it; by default ``"forkserver"`` on Linux and
            ``"spawn"`` elsewhere.

    Raises:
        TypeError: If ``function`` or ``args`` cannot be pickled.
        RuntimeError: If a rank gets here by importing the module of ``function``.
        torch.multiprocessing.ProcessRaisedException: If a rank raises, or waits for longer.
    """
    if _loading:
        raise RuntimeError(
            "ranks import this module, and importing it starts ranks: call in a function that no "
            "import runs"
        )
    if start_method is None:
        start_method = "forkserver" if sys.platform == "linux" else "spawn"
    call = pickled((function, args))
    if start_method == "forkserver":
        multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        start_processes(  # type: ignore[no-untyped-call]
            _rank, (world, folder, timeout, call), nprocs=world, start_method=start_method
        )
        files = [Path(folder) / str(rank) for rank in range(world)]
        return [torch.load(file, weights_only=False) for file in files]


def pickled(value: Any) -> bytes:
    """Return what another process makes ``value`` from.

    Raises:
        TypeError: If something in it has no name to import it by.
    """
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(str(error)) from error


def _loaded(call: bytes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return function and arguments; imports the modules that they come from."""
    global _loading
    _loading = True
    try:
        function, args = pickle.loads(call)
    except (AttributeError, ImportError) as error:
        raise ImportError(
            f"{error}; a rank imports what it runs, so define that at the top level of a module "
            f"that can be imported"
        ) from error
    finally:
        _loading = False
    return function, args


def _rank(rank: int, world: int, folder: str, timeout: float, call: bytes) -> None:
    # What was imported before the fork is no garbage. Looking for some there takes half a second,
    # since it writes to, and so copies, every page of it.
    gc.freeze()
    function, args = _loaded(call)
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=timeout)
    # By its path: in a URL `?`, `#`, `%` and a drive's `:` have a meaning.
    store = dist.FileStore(str(Path(folder) / "store"), world)  # type: ignore[attr-defined]
    store.set_timeout(_JOINING)
    store.set(f"rank {rank}", "is here")
    store.wait([f"rank {other}" for other in range(world)])
    store.set_timeout(patience)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
    try:
        # A rank that leaves ends the group for one that is still joining it.
        dist.barrier()
        torch.save(function(rank, world, *args), Path(folder) / str(rank))
        # Torch 2.6 hangs below if a rank leaves in the wake of an exchange.
        dist.barrier()
    finally:
        # Whatever holds the group keeps its threads alive; they run into the interpreter's end, and
        # the process aborts now and then. Models hold it in reference cycles.
        gc.collect()
        dist.destroy_process_group()
