"""All that negplug takes from numba's private side: its cache on disk, whose faults stop no loop.

Numba's own ``cache=True`` raises where its folder is full, over a quota or damaged. Where a release
of numba has no such cache any more, a warning says so, and each process compiles for itself.

Import this module only where numba is installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numba

# Of a cache on disk that is full, over its quota, gone by now, or damaged.
_UNUSABLE = (OSError, EOFError, pickle.UnpicklingError)

_METHODS = ("load_overload", "save_overload")


def keep_on_disk(compiled: Any, function: Callable[..., Any]) -> None:
    """Let a loop keep what it is compiled to on disk, if there is a place.

    Args:
        compiled: What ``numba.njit`` made of the function.
        function: The function.
    """
    cache = _cache_class()
    if cache is None:
        return
    if not hasattr(compiled, "_cache"):
        _warn_once(f"a {type(compiled).__name__} has no _cache any more")
        return
    # Raised where neither the function's folder nor the user's cache can be written to.
    with contextlib.suppress(RuntimeError):
        compiled._cache = cache(function)  # as enable_caching() does


def _cache_class() -> Callable[..., Any] | None:
    """Return numba's cache without its faults; None, after a warning, if it has changed."""
    try:
        own = importlib.import_module("numba.core.caching").FunctionCache
    except (ImportError, AttributeError):
        _warn_once("numba.core.caching has no FunctionCache any more")
        return None
    if lost := [name for name in _METHODS if not callable(getattr(own, name, None))]:
        _warn_once(f"its FunctionCache has no {lost[0]} any more")
        return None
    return _without_faults(own)


@functools.cache
def _without_faults(own: Any) -> Callable[..., Any]:
    class Cache(own):  # type: ignore[misc]
        """Numba's cache on disk, without which a process compiles for itself."""

        def load_overload(self, *args: Any, **kwargs: Any) -> Any:
            """Return what was kept, None if there is nothing."""
            with contextlib.suppress(*_UNUSABLE):
                return super().load_overload(*args, **kwargs)
            return None

        def save_overload(self, *args: Any, **kwargs: Any) -> None:
            """Keep what was compiled."""
            with contextlib.suppress(*_UNUSABLE):
                super().save_overload(*args, **kwargs)

    return Cache


@functools.cache
def _warn_once(what: str) -> None:
    warnings.warn(
        f"numba {numba.__version__}: {what}; {__name__} relies on it to keep compiled loops on "
        f"disk, so each process compiles them for itself, which takes seconds; use another version "
        f"of numba or of negplug",
        stacklevel=2,
    )
