"""A function on several real processes, joined by gloo."""

from __future__ import annotations

import datetime
import gc
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


def run(
    function: Callable[..., Any],
    world: int,
    *args: Any,
    timeout: float = 60.0,
    fork: bool | None = None,
) -> list[Any]:
    """Call ``function(rank, world, *args)`` on every rank; return the results in rank order.

    Args:
        function: Returns tensors and built-in types.
        world: Number of ranks.
        *args: Handed on.
        timeout: Seconds that a rank waits for another one in an exchange.
        fork: Whether to fork; by default where that is safe. Otherwise ``function`` and ``args``
            must be importable.

    Raises:
        torch.multiprocessing.ProcessRaisedException: If a rank raises, or waits for longer.
    """
    if fork is None:
        # torch is loaded there already, but the autograd threads of an accelerator are not.
        fork = sys.platform == "linux" and not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        start_processes(  # type: ignore[no-untyped-call]
            _rank,
            (world, folder, timeout, function, args),
            nprocs=world,
            start_method="fork" if fork else "spawn",
        )
        files = [Path(folder) / str(rank) for rank in range(world)]
        return [torch.load(file, weights_only=False) for file in files]


def _rank(
    rank: int,
    world: int,
    folder: str,
    timeout: float,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        torch.save(function(rank, world, *args), Path(folder) / str(rank))
        # Torch 2.6 hangs below if a rank leaves in the wake of an exchange.
        dist.barrier()
    finally:
        # Whatever holds the group keeps its threads alive; they run into the interpreter's end, and
        # the process aborts now and then. Models hold it in reference cycles.
        gc.collect()
        dist.destroy_process_group()
