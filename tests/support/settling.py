"""Calls whose faults are found later on a GPU, which nothing waits for."""

from __future__ import annotations

from typing import Any

from negplug.kernels import late


def settled(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what a call returns, once nothing of it is left to be found."""
    result = call(*args, **kwargs)
    try:
        late.settle()
    except Exception:
        del result  # which the traceback would keep
        raise
    return result
