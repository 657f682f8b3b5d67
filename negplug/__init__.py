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
    from negplug.contract.adapter import Contrast, LossSite, Metadata, MethodReport
    from negplug.contract.batch import ContrastiveBatch
    from negplug.contract.composer import Composer, Epoch
    from negplug.contract.draws import Draws
    from negplug.contract.hookspecs import (
        HOOKSPEC_VERSION,
        AdapterSpec,
        ComposerSpec,
        ObjectiveSpec,
        SamplerSpec,
        hookimpl,
    )
    from negplug.contract.negatives import Columns, Mixtures, Negatives, Whole, enumerated
    from negplug.contract.objective import Objective
    from negplug.contract.rows import Rows
    from negplug.contract.sampler import NegativeSampler, Sampled
    from negplug.contract.state import Stateful
    from negplug.hosts.accumulation.loops import accumulated
    from negplug.hosts.composing.loops import ComposedBatchSampler
    from negplug.hosts.injection import Injection, inject
    from negplug.kernels.random.distinct import distinct_places
    from negplug.loss.contrastive import ContrastiveLoss
    from negplug.loss.temperature import LearnedTemperature
    from negplug.plugins.build import make_composer, make_objective, make_sampler
    from negplug.samplers.common.choosing import ChoosingSampler
    from negplug.samplers.common.remembering import RememberingSampler

__all__ = [
    "HOOKSPEC_VERSION",
    "AdapterSpec",
    "ChoosingSampler",
    "Columns",
    "ComposedBatchSampler",
    "Composer",
    "ComposerSpec",
    "Contrast",
    "ContrastiveBatch",
    "ContrastiveLoss",
    "Draws",
    "Epoch",
    "Injection",
    "LearnedTemperature",
    "LossSite",
    "Metadata",
    "MethodReport",
    "Mixtures",
    "NegativeSampler",
    "Negatives",
    "Objective",
    "ObjectiveSpec",
    "RememberingSampler",
    "Rows",
    "Sampled",
    "SamplerSpec",
    "Stateful",
    "Whole",
    "accumulated",
    "distinct_places",
    "enumerated",
    "hookimpl",
    "inject",
    "make_composer",
    "make_objective",
    "make_sampler",
]

_HOME = {
    "HOOKSPEC_VERSION": "negplug.contract.hookspecs",
    "AdapterSpec": "negplug.contract.hookspecs",
    "ChoosingSampler": "negplug.samplers.common.choosing",
    "Columns": "negplug.contract.negatives",
    "ComposedBatchSampler": "negplug.hosts.composing.loops",
    "Composer": "negplug.contract.composer",
    "ComposerSpec": "negplug.contract.hookspecs",
    "Contrast": "negplug.contract.adapter",
    "ContrastiveBatch": "negplug.contract.batch",
    "ContrastiveLoss": "negplug.loss.contrastive",
    "Draws": "negplug.contract.draws",
    "Epoch": "negplug.contract.composer",
    "Injection": "negplug.hosts.injection",
    "LearnedTemperature": "negplug.loss.temperature",
    "LossSite": "negplug.contract.adapter",
    "Metadata": "negplug.contract.adapter",
    "MethodReport": "negplug.contract.adapter",
    "Mixtures": "negplug.contract.negatives",
    "NegativeSampler": "negplug.contract.sampler",
    "Negatives": "negplug.contract.negatives",
    "Objective": "negplug.contract.objective",
    "ObjectiveSpec": "negplug.contract.hookspecs",
    "RememberingSampler": "negplug.samplers.common.remembering",
    "Rows": "negplug.contract.rows",
    "Sampled": "negplug.contract.sampler",
    "SamplerSpec": "negplug.contract.hookspecs",
    "Stateful": "negplug.contract.state",
    "Whole": "negplug.contract.negatives",
    "accumulated": "negplug.hosts.accumulation.loops",
    "distinct_places": "negplug.kernels.random.distinct",
    "enumerated": "negplug.contract.negatives",
    "hookimpl": "negplug.contract.hookspecs",
    "inject": "negplug.hosts.injection",
    "make_composer": "negplug.plugins.build",
    "make_objective": "negplug.plugins.build",
    "make_sampler": "negplug.plugins.build",
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
