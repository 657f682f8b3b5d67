"""negplug for solo-learn (main, and 1.0.2 as published): its methods, treated in place.

``NegativeControl`` is a Lightning callback that treats the loss of the method it trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negplug.callback import NegativeControlMixin as NegativeControl

__all__ = ["NegativeControl"]


def __getattr__(name: str) -> Any:
    if name == "NegativeControl":
        from negplug.lightnings import callback_class

        # solo-learn main imports lightning.pytorch, 1.0.2 pytorch_lightning.
        return callback_class("lightning.pytorch", "pytorch_lightning")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
