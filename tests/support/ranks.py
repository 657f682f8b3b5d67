"""Run a function on several real processes joined by gloo."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Call ``function(rank, world, *args)`` on every rank; return the results in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        # Forked, so that the function needs no importable home and torch is not loaded again.
        mp.start_processes(
            _rank, (world, folder, function, args), nprocs=world, start_method="fork"
        )
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(world)]


def _rank(rank: int, world: int, folder: str, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    try:
        result = function(rank, world, *args)
    finally:
        dist.destroy_process_group()
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(result))
