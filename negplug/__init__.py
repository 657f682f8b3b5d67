"""negplug: choose the negatives of a contrastive recipe.

A contrastive loss makes three independent choices. A *sampler* picks the negatives of each
anchor, an *objective* turns positives and negatives into a loss, and an *adapter* finds where
that loss sits in a host's method class (Lightly, solo-learn).

The public names below are loaded on first use, so that Lightning's entry points and the command
line can import this package without paying for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negplug.adapter import Contrast, LossSite, Metadata, MethodReport
    from negplug.batch import ContrastiveBatch
    from negplug.build import make_objective, make_sampler
    from negplug.draws import Draws
    from negplug.hookspecs import AdapterSpec, ObjectiveSpec, SamplerSpec, hookimpl
    from negplug.injection import Injection, inject
    from negplug.loss import ContrastiveLoss
    from negplug.negatives import Negatives
    from negplug.objective import Objective
    from negplug.sampler import NegativeSampler

__all__ = [
    "AdapterSpec",
    "Contrast",
    "ContrastiveBatch",
    "ContrastiveLoss",
    "Draws",
    "Injection",
    "LossSite",
    "Metadata",
    "MethodReport",
    "NegativeSampler",
    "Negatives",
    "Objective",
    "ObjectiveSpec",
    "SamplerSpec",
    "hookimpl",
    "inject",
    "make_objective",
    "make_sampler",
]

_HOME = {
    "AdapterSpec": "negplug.hookspecs",
    "Contrast": "negplug.adapter",
    "ContrastiveBatch": "negplug.batch",
    "ContrastiveLoss": "negplug.loss",
    "Draws": "negplug.draws",
    "Injection": "negplug.injection",
    "LossSite": "negplug.adapter",
    "Metadata": "negplug.adapter",
    "MethodReport": "negplug.adapter",
    "NegativeSampler": "negplug.sampler",
    "Negatives": "negplug.negatives",
    "Objective": "negplug.objective",
    "ObjectiveSpec": "negplug.hookspecs",
    "SamplerSpec": "negplug.hookspecs",
    "hookimpl": "negplug.hookspecs",
    "inject": "negplug.injection",
    "make_objective": "negplug.build",
    "make_sampler": "negplug.build",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("negplug")
    if name not in _HOME:
        raise AttributeError(f"module 'negplug' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
