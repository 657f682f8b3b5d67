"""Run a function of a test on several real processes joined by gloo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

from negplug.testing import processes


def run(function: Callable[..., Any], world: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """Call ``function(rank, world, *args)`` on every rank; return the results in rank order."""
    return processes.run(_call, world, by_value(function, args), timeout=timeout)


def by_value(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """Pickle a call of a function that may be local; pytest's test modules cannot be imported."""
    module = sys.modules[function.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps((function, args))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _call(rank: int, world: int, call: bytes) -> Any:
    function, args = cloudpickle.loads(call)
    return function(rank, world, *args)
