"""negplug for Lightly: its criteria, treated in place.

``NegativeControl`` is a Lightning callback that treats the criteria of the module it trains;
``GradientSNR`` and ``RepresentationDiagnostics`` are callbacks that measure, treated or not, and
``ContactSheet`` one that shows what a treated loss compares.
``treat_as`` declares a class of the recipe's own to be a criterion of Lightly.
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
    from negplug_lightly.declared import treat_as

__all__ = [
    "ContactSheet",
    "GradientSNR",
    "NegativeControl",
    "RepresentationDiagnostics",
    "treat_as",
]


def __getattr__(name: str) -> Any:
    if name == "treat_as":
        from negplug_lightly.declared import treat_as

        return treat_as
    if name in __all__:
        from negplug.hosts.trainer.lightnings import callback_class

        # Lightly's recipes import pytorch_lightning.
        return callback_class(name, "pytorch_lightning", "lightning.pytorch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
