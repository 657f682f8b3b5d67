"""The door to unmodified recipes: Lightning's ``callbacks_factory`` entry points.

Every Lightning Trainer, in every process, calls these factories. Without negplug's variables
they return an empty list at once: no torch, no core, nothing that could raise. DDP's child
processes inherit the environment and so the treatment.

Environment:
    NEGPLUG_SAMPLER and others: See :mod:`negplug.hosts.environment`.
    NEGPLUG_DIAGNOSTICS: Names of :data:`DIAGNOSTICS`, separated by commas; with or without a
        sampler, so that an untouched recipe is measured too.
    NEGPLUG_METRICS: A file; what the recipe logs is appended to it, see
        :mod:`negplug.hosts.trainer.metrics`.
    NEGPLUG_PROGRESS: A file; it says where a fit stands, see
        :mod:`negplug.hosts.trainer.progress`.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from negplug.contract.variables import listed
from negplug.hosts import environment

DIAGNOSTICS_VARIABLE = "NEGPLUG_DIAGNOSTICS"

DIAGNOSTICS = {
    "gradient_snr": "GradientSNR",
    "representation": "RepresentationDiagnostics",
    "contact_sheet": "ContactSheet",
}
"""Name → callback, see :mod:`negplug.hosts.trainer.lightnings`."""

_asked = False


def lightning() -> list[Any]:
    """Return the callbacks for a Trainer of ``lightning.pytorch``."""
    return _callbacks("lightning.pytorch")


def pytorch_lightning() -> list[Any]:
    """Return the callbacks for a Trainer of ``pytorch_lightning``."""
    return _callbacks("pytorch_lightning")


def was_asked() -> bool:
    """Return whether a Trainer was made in this process."""
    return _asked


def asked_diagnostics() -> list[str]:
    """Return the names in ``NEGPLUG_DIAGNOSTICS``, each once.

    Raises:
        ValueError: If there is no such diagnostic.
    """
    names = list(dict.fromkeys(listed(os.environ.get(DIAGNOSTICS_VARIABLE, ""))))
    for name in names:
        if name not in DIAGNOSTICS:
            raise ValueError(
                f"{DIAGNOSTICS_VARIABLE} names {name!r}; there are {', '.join(DIAGNOSTICS)}"
            )
    return names


def _callbacks(framework: str) -> list[Any]:
    global _asked
    _asked = True
    asked = environment.asked()
    metrics = os.environ.get("NEGPLUG_METRICS")
    callbacks: list[Any] = []
    if asked is not None:
        callbacks.append(_control(framework, asked))
    for name in asked_diagnostics():
        from negplug.hosts.trainer.lightnings import callback_class

        diagnostic = callback_class(DIAGNOSTICS[name], framework)
        callbacks.append(diagnostic(from_environment=True))
    if metrics:
        from negplug.hosts.trainer.metrics import recorder

        callbacks.append(recorder(importlib.import_module(framework).Callback))
    if _progress_is_asked():
        from negplug.hosts.trainer.progress import progress

        callbacks.append(progress(importlib.import_module(framework).Callback))
    # Who inspects a checkpoint in this process has loaded the module.
    inspection = sys.modules.get("negplug.hosts.trainer.inspection")
    if inspection is not None and (inspecting := inspection.callback(framework)) is not None:
        callbacks.append(inspecting)
    return callbacks


def _progress_is_asked() -> bool:
    # Who wants a display in this process has loaded the module.
    module = sys.modules.get("negplug.hosts.trainer.progress")
    return bool(os.environ.get("NEGPLUG_PROGRESS")) or (module is not None and module.is_shown())


def _control(framework: str, asked: environment.Asked) -> Any:
    from negplug.hosts import watch
    from negplug.hosts.trainer.lightnings import callback_class

    environment.check_parts()
    # What a Trainer leaves alone is a plain loop's.
    watch.from_environment()
    return callback_class("NegativeControl", framework)(
        *asked,
        ignore=environment.ignored(),
        accumulate=environment.accumulate(),
        compose=environment.composer(),
        from_environment=True,
    )
