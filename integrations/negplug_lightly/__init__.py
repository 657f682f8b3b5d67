"""negplug for Lightly: its criteria, treated in place.

``NegativeControl`` is a Lightning callback that treats the criteria of the module it trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negplug.callback import NegativeControlMixin as NegativeControl

__all__ = ["NegativeControl"]


def __getattr__(name: str) -> Any:
    if name == "NegativeControl":
        from negplug.lightnings import callback_class

        # Lightly's recipes import pytorch_lightning.
        return callback_class("pytorch_lightning", "lightning.pytorch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
