"""Two Lightnings, two ``Callback`` classes: the ``NegativeControl`` for the one in use."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import Any

from negplug.callback import NegativeControlMixin


def callback_class(*preferred: str) -> type[NegativeControlMixin]:
    """Return the callback class for the Lightning in use.

    Args:
        *preferred: Module names that hold a ``Callback``, the usual one first. Those that are
            imported already are in use; if none is, the first that is installed.

    Raises:
        ImportError: If no Lightning is installed.
    """
    used = [name for name in preferred if name in sys.modules]
    if not used:
        used = [name for name in preferred if _installed(name)][:1]
    if not used:
        raise ImportError(f"NegativeControl needs one of {', '.join(preferred)}; install it")
    return _derive(tuple(importlib.import_module(name).Callback for name in used))


@functools.cache
def _derive(bases: tuple[type, ...]) -> type[NegativeControlMixin]:
    def reduce(control: NegativeControlMixin) -> tuple[Any, ...]:
        # The class is made on the fly, so pickle (ddp_spawn's ranks) makes it anew.
        return _blank, bases, vars(control)

    body = {"__module__": __name__, "__doc__": NegativeControlMixin.__doc__, "__reduce__": reduce}
    return type("NegativeControl", (NegativeControlMixin, *bases), body)


def _blank(*bases: type) -> NegativeControlMixin:
    cls = _derive(bases)
    return cls.__new__(cls)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None
