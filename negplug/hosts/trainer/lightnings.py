"""Two Lightnings, two ``Callback`` classes: negplug's callbacks for the one in use.

The behaviour of a callback is a mixin that imports no Lightning; its class is made here, by
joining the mixin with the ``Callback`` of the Lightning whose Trainer will call it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import Any

_HOME = {
    "ContactSheet": "negplug.hosts.trainer.contact_sheet",
    "Inspection": "negplug.hosts.trainer.inspection",
    "NegativeControl": "negplug.hosts.trainer.callback",
    "GradientSNR": "negplug.hosts.trainer.diagnostics",
    "RepresentationDiagnostics": "negplug.hosts.trainer.diagnostics",
}
"""Where the behaviour of each callback is, under its name with ``Mixin`` behind."""


def callback_class(name: str, *preferred: str) -> type[Any]:
    """Return a callback's class for the Lightning in use.

    Args:
        name: ``"NegativeControl"``, ``"GradientSNR"``, ``"RepresentationDiagnostics"``,
            ``"ContactSheet"`` or ``"Inspection"``.
        *preferred: Module names that hold a ``Callback``, the usual one first. Those that are
            imported already are in use; if none is, the first that is installed.

    Raises:
        ImportError: If no Lightning is installed.
    """
    used = [module for module in preferred if module in sys.modules]
    if not used:
        used = [module for module in preferred if _installed(module)][:1]
    if not used:
        raise ImportError(f"{name} needs one of {', '.join(preferred)}; install it")
    return _derive(name, *(importlib.import_module(module).Callback for module in used))


@functools.cache
def _derive(name: str, *bases: type) -> type[Any]:
    behaviour = getattr(importlib.import_module(_HOME[name]), f"{name}Mixin")

    def reduce(callback: Any) -> tuple[Any, ...]:
        # The class is made on the fly, so pickle (ddp_spawn's ranks) makes it anew.
        return _blank, (name, *bases), vars(callback)

    body = {"__module__": __name__, "__doc__": behaviour.__doc__, "__reduce__": reduce}
    return type(name, (behaviour, *bases), body)


def _blank(name: str, *bases: type) -> Any:
    return object.__new__(_derive(name, *bases))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None
