"""From an installed distribution to a name, and from an expression to an object.

The names below are loaded on first use: the command line asks where plugins come from before it
pays for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negplug.plugins.manager import Plugins, plugins
    from negplug.plugins.settings import PluginWarning

__all__ = ["PluginWarning", "Plugins", "plugins"]

_HOME = {"PluginWarning": "settings", "Plugins": "manager", "plugins": "manager"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'negplug.plugins' has no attribute {name!r}")
    home = importlib.import_module(f"negplug.plugins.{_HOME[name]}")
    value = globals()[name] = getattr(home, name)
    return value
