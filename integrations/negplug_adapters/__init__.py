"""Adapters of further hosts, a module each, which imports its host only to report on it.

``NegativeControl`` and the callbacks beside it are of ``lightning.pytorch``, as hosts import it.
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

        return callback_class(name, "lightning.pytorch", "pytorch_lightning")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
