"""negplug for solo-learn (main, and 1.0.2 as published): its methods, treated in place.

``NegativeControl`` is a Lightning callback that treats the loss of the method it trains;
``GradientSNR`` and ``RepresentationDiagnostics`` are callbacks that measure, treated or not, and
``ContactSheet`` one that shows what a treated loss compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negplug.hosts.trainer.callback import NegativeControlMixin as NegativeControl
    from negplug.hosts.trainer.contact_sheet import ContactSheetMixin as ContactSheet
    from negplug.hosts.trainer.diagnostics import GradientSNRMixin as GradientSNR
    from negplug.hosts.trainer.diagnostics import (
        RepresentationDiagnosticsMixin as RepresentationDiagnostics,
    )

__all__ = ["ContactSheet", "GradientSNR", "NegativeControl", "RepresentationDiagnostics"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from negplug.hosts.trainer.lightnings import callback_class

        # solo-learn main imports lightning.pytorch, 1.0.2 pytorch_lightning.
        return callback_class(name, "lightning.pytorch", "pytorch_lightning")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
