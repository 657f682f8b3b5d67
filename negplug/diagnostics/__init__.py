"""Diagnostics of representations, negatives and gradients, as plain functions of tensors.

- :mod:`negplug.diagnostics.gradients`: the gradients' signal-to-noise ratio;
- :mod:`negplug.diagnostics.clusters`: how well classes cluster;
- :mod:`negplug.diagnostics.hypersphere`: alignment and uniformity;
- :mod:`negplug.diagnostics.negatives`: effective number and hardness of negatives;
- :mod:`negplug.diagnostics.contact_sheet`: what anchors are compared with, as pictures.

As Lightning callbacks they are :mod:`negplug.hosts.trainer.diagnostics` and
:mod:`negplug.hosts.trainer.contact_sheet`, exported by ``negplug_lightly`` and ``negplug_solo``.

The names are loaded on first use: the command line, which is free of torch, draws its pages here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negplug.diagnostics.clusters import intra_class_distance, silhouette
    from negplug.diagnostics.gradients import SNR, GradientMoments
    from negplug.diagnostics.hypersphere import alignment, uniformity
    from negplug.diagnostics.negatives import effective_number, hardness

__all__ = [
    "SNR",
    "GradientMoments",
    "alignment",
    "effective_number",
    "hardness",
    "intra_class_distance",
    "silhouette",
    "uniformity",
]

_HOMES = {
    "clusters": ("intra_class_distance", "silhouette"),
    "gradients": ("SNR", "GradientMoments"),
    "hypersphere": ("alignment", "uniformity"),
    "negatives": ("effective_number", "hardness"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            module = importlib.import_module(f"{__name__}.{home}")
            value = globals()[name] = getattr(module, name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
