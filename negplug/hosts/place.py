"""Which line of the recipe's own code is running, for messages."""

from __future__ import annotations

import traceback
from pathlib import Path

_BETWEEN = (
    "torch",
    "negplug",
    "negplug_adapters",
    "negplug_lightly",
    "negplug_solo",
    "lightning",
    "lightning_fabric",
    "pytorch_lightning",
)


def place() -> tuple[str, tuple[str, int]]:
    """Return where the recipe's code is at this moment, for a message and as a key."""
    for frame, line in traceback.walk_stack(None):
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _BETWEEN:
            path = frame.f_code.co_filename
            return f"{Path(path).name}:{line}", (path, line)
    return "an unknown place", ("", 0)
