"""From an installed distribution to a name, and from an expression to an object.

The names below are loaded on first use: the command line asks where plugins come from before it
pays for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negplug.plugins.manager import Plugins, PluginWarning, plugins

__all__ = ["PluginWarning", "Plugins", "plugins"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'negplug.plugins' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module("negplug.plugins.manager"), name)
    return value
