"""Run a function on several real processes joined by gloo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from negplug.testing import processes


def run(function: Callable[..., Any], world: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """Call ``function(rank, world, *args)`` on every rank; return the results in rank order."""
    # Forked, so that the function needs no importable home.
    return processes.run(function, world, *args, timeout=timeout, fork=True)
