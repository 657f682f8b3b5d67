"""Lightly's criteria as loss sites.

A criterion is found anywhere in a module and treated by shadowing ``forward`` on the instance:
its identity, its hooks, its place in the module tree and its ``state_dict`` stay as they are.
To treat a further criterion, add a line to ``_CRITERIA``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from negplug.contract.adapter import Contrast, LossSite, MethodReport
from negplug.contract.hookspecs import AdapterSpec, hookimpl
from negplug.contract.labels import FIELDS, Targets
from negplug.contract.provenance import installed_version
from negplug.contract.variables import FORMS
from negplug.hosts.cover import insist_on_own, is_covered, put_on, take_off
from negplug_lightly import criteria, private
from negplug_lightly.declared import TERMS, TreatedDeclared, declared_form, two_views
from negplug_lightly.treated import Criterion, TreatedForwardOfZ

_GATHERS = ("temperature", "gather_distributed")
_CRITERIA: dict[str, Criterion] = {
    "DirectCLRLoss": Criterion(
        criteria.truncated,
        criteria.softmax,
        ("forward",),
        (*_GATHERS, "memory_bank", "loss_dim"),
        "as NTXentLoss, on the first loss_dim values",
    ),
    "NTXentLoss": Criterion(
        criteria.views_or_pairs,
        criteria.softmax,
        ("forward",),
        (*_GATHERS, "memory_bank"),
        "every sampler; queue() needs a size, unless there is a memory bank: then the loss is of "
        "one direction, and queue() takes the bank's size",
    ),
    "DCLWLoss": Criterion(
        criteria.both_views,
        criteria.decoupled,
        ("forward", "_loss"),
        (*_GATHERS, "weight_fn"),
        "every sampler, its weights kept",
    ),
    "DCLLoss": Criterion(
        criteria.both_views,
        criteria.decoupled,
        ("forward", "_loss"),
        (*_GATHERS, "weight_fn"),
        "every sampler, without a weight_fn of your own",
    ),
    "MACLLoss": Criterion(
        criteria.both_views,
        criteria.model_aware,
        ("forward",),
        ("temperature", "alpha", "A_0", "eps"),
        "every sampler, its adaptive temperature and its weights kept",
        criteria.aligned,
        TreatedForwardOfZ,
    ),
}
"""Class in ``lightly.loss`` → its terms; a subclass stands before its base."""

_REGIONS = (
    "contrastive, but its rows are regions of images, each with a weight of its own, and the mean "
    "counts regions without a positive too"
)
_REFUSED = {"DetConBLoss": _REGIONS, "DetConSLoss": _REGIONS}
"""Contrastive criteria that cannot be treated → why."""


class CriterionSite(LossSite):
    """A criterion inside a module."""

    def __init__(self, name: str, criterion: nn.Module, base: str) -> None:
        self.name = name
        self._base = base
        found = installed_version("lightly") or "(unknown version)"
        self.host = f"lightly {found} {type(criterion).__name__}"
        self.queue_size = private.bank_size(criterion) or None
        self._criterion = criterion
        self._targets = Targets()
        self._is_declared = declared_form(criterion) is not None

    def treat(self, contrast: Contrast) -> None:
        """Shadow the criterion's ``forward``."""
        mend = "make a class of it and declare its form (treat=, NEGPLUG_TREAT)"
        insist_on_own(self._criterion, "forward", (self.host, self.name), mend)
        if self._is_declared:
            self._treat_as_declared(contrast)
            return
        known, own = _CRITERIA[self._base], type(self._criterion)
        base = getattr(sys.modules["lightly.loss"], self._base)
        if method := private.overridden(own, base, known.methods):
            raise ValueError(
                f"{self.host}: {self.name!r} overrides the {method} of {self._base}, so its "
                f"loss is not known; name another loss as target, or declare its form: "
                f"NEGPLUG_TREAT={own.__module__}:{own.__qualname__}=ntxent (or "
                f"{', '.join(FORMS[1:])}), or treat=… likewise"
            )
        arguments = list(inspect.signature(own.forward).parameters)
        expected = list(inspect.signature(known.treated.__call__).parameters)
        if arguments != expected:
            raise ValueError(
                f"{self.host}: forward takes {arguments}, but this adapter expects {expected}; "
                f"use another version of lightly or of negplug"
            )
        missing = [name for name in known.attributes if not hasattr(self._criterion, name)]
        if private.memory_bank(self._criterion) is not None and "memory_bank" in missing:
            missing.remove("memory_bank")
        if missing:
            raise ValueError(
                f"{self.host}: {self.name!r} has no {' and no '.join(missing)}, which this adapter "
                f"expects; use another version of lightly or of negplug"
            )
        known.form(self._criterion)  # raises now rather than in the first step
        put_on(known.treated(self._criterion, known, contrast), self._criterion, "forward")

    def _treat_as_declared(self, contrast: Contrast) -> None:
        own = type(self._criterion)
        if not two_views(own):
            raise ValueError(
                f"{self.host}: {self.name!r} is declared to be {self._base}, but its forward does "
                f"not take the embeddings of two views; negplug.ContrastiveLoss may serve instead"
            )
        if not hasattr(self._criterion, "temperature") and contrast.temperature is None:
            raise ValueError(
                f"{self.host}: {self.name!r} has no attribute temperature; say it with "
                f"temperature=… or NEGPLUG_TEMPERATURE"
            )
        TERMS[self._base].objective(self._criterion)  # raises now rather than in the first step
        put_on(TreatedDeclared(self._criterion, self._base, contrast), self._criterion, "forward")

    def labels(self, batch: Any) -> Tensor | None:
        """Return the targets of Lightly's (views, targets, file names), or of a named field."""
        named = any(field in FIELDS for field in getattr(batch, "_fields", ()))
        if named or isinstance(batch, Mapping):
            return self._targets.read("the batch", batch._asdict() if named else batch)
        if not isinstance(batch, (list, tuple)) or len(batch) < 2:
            return None
        views, targets = batch[0], batch[1]
        first = views[0] if isinstance(views, (list, tuple)) and views else views
        if not isinstance(first, Tensor):
            return None
        return self._targets.read("the second entry of the batch", targets, len(first))

    def restore(self) -> None:
        """Uncover the class's own ``forward``."""
        take_off(self._criterion, "forward")


def find_criteria(model: nn.Module) -> Iterator[LossSite]:
    """Yield the known criteria of ``model``, each once, under its path in the module tree."""
    for path, module in _own_modules(model):
        kind = _kind(module)
        if kind is not None:
            yield CriterionSite(path or type(module).__name__, module, kind)


def site_of(module: nn.Module) -> LossSite | None:
    """Return the site of a known criterion that is not treated so far."""
    kind = _kind(module)
    if kind is None or is_covered(module, "forward"):
        return None
    return CriterionSite(type(module).__name__, module, kind)


def report_methods() -> Iterator[MethodReport]:
    """Yield every criterion of the installed Lightly and what can be done to it.

    Raises:
        ImportError: If Lightly is installed and cannot be imported.
    """
    try:
        from lightly import loss
    except ModuleNotFoundError as error:
        if error.name == "lightly":
            return
        raise
    for name, value in sorted(vars(loss).items()):
        if not (inspect.isclass(value) and issubclass(value, nn.Module)):
            continue
        if name in _CRITERIA:
            yield MethodReport(name, True, _CRITERIA[name].note + _of_this_version(name))
        else:
            note = _REFUSED.get(name, "no negatives to choose")
            yield MethodReport(name, False, note, contrastive=name in _REFUSED)


def _of_this_version(name: str) -> str:
    """Return what the installed version has in another form than later ones, for a note."""
    if name not in ("DCLLoss", "DCLWLoss") or not private.has_denominator_per_view():
        return ""
    return (
        f"; lightly {installed_version('lightly')} has one denominator for each view, and so has "
        f"the treated loss; no draws from the softmax"
    )


def _kind(module: nn.Module) -> str | None:
    """Return which known criterion ``module`` is; a class that Lightly has dropped is none."""
    if (declared := declared_form(module)) is not None:
        return declared
    # Of a host that is not loaded there are no modules.
    loss = sys.modules.get("lightly.loss")
    kinds = (name for name in _CRITERIA if isinstance(module, getattr(loss, name, ())))
    return next(kinds, None)


def _own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a model by their path, but for those of a LightningModule inside it."""
    seen: set[int] = set()
    todo = [("", model)]
    while todo:
        path, module = todo.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        for name, child in reversed(list(module.named_children())):
            # A LightningModule inside another (a pretrained model under a linear probe) does
            # not run its training step, so its loss is not this model's.
            if not (hasattr(child, "training_step") and hasattr(child, "configure_optimizers")):
                todo.append((f"{path}.{name}" if path else name, child))


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the Lightly adapter."""
    yield AdapterSpec("lightly", find_criteria, report_methods, "criteria of lightly.loss", site_of)
