"""Contrastive losses that nobody treats, found by their own calls.

No search of a model finds a loss in a list, a dictionary or a closure, or one that is made inside
``training_step``; and no adapter knows a loss of the recipe's own. But whatever trains is called.
Behind every module's forward pass torch has a global hook: a module that an adapter knows and that
is not treated, or whose scalar is a contrastive loss by its form
(:mod:`negplug.hosts.loss_form`), would train on as the host has it.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from negplug.contract.adapter import LossSite
from negplug.contract.declarations import full_name
from negplug.contract.provenance import blaming
from negplug.contract.variables import FORMS
from negplug.hosts import environment
from negplug.hosts.graph_parameters import parameters_of
from negplug.hosts.loss_form import contrasts
from negplug.loss.contrastive import ContrastiveLoss
from negplug.plugins.manager import Provided, plugins

_OF_TUPLES = (
    nn.CosineEmbeddingLoss,
    nn.HingeEmbeddingLoss,
    nn.MarginRankingLoss,
    nn.TripletMarginLoss,
    nn.TripletMarginWithDistanceLoss,
)
"""Losses of torch whose negatives the recipe chooses itself."""

_NAMED_SO = re.compile(r"(Triplet|Contrastive|InfoNCE|NTXent|SupCon|NPairs?)\w*(Loss|Criterion)$")
"""Such losses outside of torch, by name: the graph of a loss of tuples does not always show it."""


class UntreatedLossError(RuntimeError):
    """A contrastive loss trains on without the treatment that was asked for."""


class Judge:
    """Says which of the modules that are called are contrastive losses that nobody treats.

    Args:
        ignore: Losses to leave alone besides those of ``NEGPLUG_IGNORE``, by the name of their
            class or of their attribute.
        model: The model that trains, in which attributes have names.
    """

    def __init__(self, ignore: Collection[str] = (), model: nn.Module | None = None) -> None:
        self._adapters: Sequence[Provided] = plugins().provided("adapter")
        self._ignore = frozenset(ignore) | environment.ignored()
        self._model = model
        self._known_to_be_none: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def site_of(self, module: nn.Module) -> LossSite | None:
        """Return the site of a known loss that is neither treated nor ignored."""
        for adapter in self._adapters:
            if adapter.spec.site_of is not None:
                with blaming(adapter.plugin, "site_of()"):
                    site = adapter.spec.site_of(module)
                if site is not None:
                    return None if self._is_ignored(module) else site
        return None

    def unknown(self, module: nn.Module, given: Any, output: Tensor) -> str | None:
        """Return the name of a contrastive loss that no adapter can treat, None if it is none."""
        if module in self._known_to_be_none:
            return None
        if (
            not self._is_ignored(module)
            and not isinstance(module, ContrastiveLoss)
            and not self._holds_a_known_loss(module)
            and (_of_tuples(module) or contrasts(output, given))
            and not self._is_vouched_for(module)
        ):
            return self.name(module)
        self._known_to_be_none.add(module)
        return None

    def may_be_contrastive(self, module: nn.Module) -> bool:
        """Return whether a module may be an untreated contrastive loss, whatever it computes."""
        return not (
            self.leaves_alone(module)
            or isinstance(module, ContrastiveLoss)
            or (type(module).__module__.startswith("torch.") and not _of_tuples(module))
            or (self.site_of(module) is None and self._holds_a_known_loss(module))
        )

    def leaves_alone(self, module: nn.Module) -> bool:
        """Return whether a module is ignored, or a host's own loss without negatives."""
        return self._is_ignored(module) or self._is_vouched_for(module)

    def name(self, module: nn.Module) -> str:
        """Return the path of a module in the model, or the name of its class."""
        return self._path(module) or type(module).__name__

    def is_in_model(self, module: nn.Module) -> bool:
        """Return whether a module is one of the model's."""
        return bool(self._path(module))

    def trains_the_model(self, output: Tensor) -> bool:
        """Return whether a loss depends on a parameter of the model, as far as that is known."""
        if self._model is None:
            return True
        return not parameters_of(output).isdisjoint(self._model.parameters())

    def _path(self, module: nn.Module) -> str:
        inside = () if self._model is None else self._model.named_modules()
        return next((path for path, other in inside if other is module), "")

    def _is_ignored(self, module: nn.Module) -> bool:
        if not self._ignore:
            return False
        return type(module).__name__ in self._ignore or self._path(module) in self._ignore

    def _holds_a_known_loss(self, module: nn.Module) -> bool:
        """Whether it is a treated loss, or a module around one."""
        for adapter in self._adapters:
            with blaming(adapter.plugin, "sites()"):
                if any(True for _ in adapter.spec.sites(module)):
                    return True
        return False

    def _is_vouched_for(self, module: nn.Module) -> bool:
        """Whether it is a host's own, of which the adapter says that it has no negatives."""
        kind = type(module)
        package = kind.__module__.partition(".")[0]
        for adapter in self._adapters:
            if adapter.spec.name.replace("-", "_") == package:
                with blaming(adapter.plugin, "methods()"):
                    reports = [r for r in adapter.spec.methods() if r.method == kind.__name__]
                return any(not r.treatable and not r.contrastive for r in reports)
        return False


def mend_of(module: nn.Module, declare: str) -> str:
    """Return how a contrastive loss that no adapter knows can be treated.

    Args:
        module: The loss.
        declare: How its form is declared, with ``{kind}`` in place of its class and one form.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "call the loss itself, for nothing can take the place of what torch.jit made of it"
    declared = declare.format(kind=f"{full_name(type(module))}={FORMS[0]}")
    return f"{declared}, or as {', '.join(FORMS[1:])}, whichever it is"


def scripted_in(model: nn.Module) -> str:
    """Return a clause on the first module that torch.jit made, in which no loss is found."""
    made = (
        name for name, each in model.named_modules() if isinstance(each, torch.jit.ScriptModule)
    )
    name = next(made, None)
    return "" if name is None else f" (but torch.jit made {name or 'it'!r}; keep losses out of it)"


def names_of(site: LossSite, model: nn.Module) -> set[str]:
    """Return what ``ignore`` may call a loss: its name, its class, that of one inside of it."""
    here = next((module for path, module in model.named_modules() if path == site.name), None)
    return {site.name} | {type(each).__name__ for each in ([] if here is None else here.modules())}


def _of_tuples(module: nn.Module) -> bool:
    return isinstance(module, _OF_TUPLES) or _NAMED_SO.search(type(module).__name__) is not None
