"""Lightly's criteria as loss sites.

A criterion is found anywhere in a module and treated by shadowing ``forward`` on the instance:
its identity, its hooks, its place in the module tree and its ``state_dict`` stay as they are.
To treat a further criterion, add a line to ``_CRITERIA``.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from negplug.contract.adapter import Contrast, LossSite, Metadata, MethodReport
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import AdapterSpec, hookimpl
from negplug.contract.objective import Objective
from negplug.contract.provenance import installed_version
from negplug.kernels.torch_private import outside_graphs
from negplug_lightly import criteria, private


class TreatedForward:
    """A criterion's ``forward``, rerouted. A plain object, so that the model stays picklable."""

    def __init__(self, criterion: nn.Module, known: Criterion, contrast: Contrast) -> None:
        self.criterion: Any = criterion
        self.known = known
        self.contrast = contrast

    @outside_graphs  # the tracers of torch 2.6 and 2.7 fail at the batch
    def __call__(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Return the loss of the projections ``[B, d]`` of two views."""
        own = functools.partial(type(self.criterion).forward, self.criterion, out0, out1)
        treated = functools.partial(self._treated, out0, out1)
        return self.contrast.returned(own, treated, self.criterion.training)

    def _treated(self, out0: Tensor, out1: Tensor) -> Tensor:
        with self.contrast.together(out0, out1):
            batch = self.known.batch(self.criterion, self.contrast.metadata, out0, out1)
            form = self.known.form(self.criterion)
            temperature = self.known.temperature(self.criterion, batch)
            return self.contrast(batch, objective=form, temperature=temperature)


class TreatedForwardOfZ(TreatedForward):
    """The same for a criterion that calls its arguments z0 and z1."""

    def __call__(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Return the loss of the projections ``[B, d]`` of two views."""
        return super().__call__(z0, z1)


class Criterion(NamedTuple):
    """A criterion's own terms.

    Attributes:
        batch: How it forms its batch.
        form: Which objective it is; raises if negplug has none for it as configured.
        methods: The methods of its class that make up its loss.
        attributes: What the adapter reads from it.
        note: For ``negplug doctor``.
        temperature: What it divides similarities by, given its batch.
        treated: Its ``forward`` once treated; has the parameters that the host's must have.
    """

    batch: Callable[[Any, Metadata, Tensor, Tensor], ContrastiveBatch]
    form: Callable[[Any], Objective]
    methods: tuple[str, ...]
    attributes: tuple[str, ...]
    note: str
    temperature: Callable[[Any, ContrastiveBatch], float] = criteria.constant
    treated: type[TreatedForward] = TreatedForward


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

    def treat(self, contrast: Contrast) -> None:
        """Shadow the criterion's ``forward``."""
        known, own = _CRITERIA[self._base], type(self._criterion)
        base = getattr(sys.modules["lightly.loss"], self._base)
        if method := private.overridden(own, base, known.methods):
            raise ValueError(
                f"{self.host}: {self.name!r} overrides the {method} of {self._base}, so its "
                f"loss is not known; name another loss as target, or treat it in the subclass"
            )
        arguments = list(inspect.signature(own.forward).parameters)
        expected = list(inspect.signature(known.treated.__call__).parameters)
        if arguments != expected:
            raise ValueError(
                f"{self.host}: forward takes {arguments}, but this adapter expects {expected}; "
                f"use another version of lightly or of negplug"
            )
        missing = [name for name in known.attributes if not hasattr(self._criterion, name)]
        if missing:
            raise ValueError(
                f"{self.host}: {self.name!r} has no {' and no '.join(missing)}, which this adapter "
                f"expects; use another version of lightly or of negplug"
            )
        if "forward" in vars(self._criterion):
            raise ValueError(f"{self.host}: {self.name!r} is treated already; remove() that first")
        known.form(self._criterion)  # raises now rather than in the first step
        vars(self._criterion)["forward"] = known.treated(self._criterion, known, contrast)

    def labels(self, batch: Any) -> Tensor | None:
        """Return the targets ``[B]`` of Lightly's (views, targets, file names), if integers."""
        if not isinstance(batch, (list, tuple)) or len(batch) < 2:
            return None
        views, targets = batch[0], batch[1]
        first = views[0] if isinstance(views, (list, tuple)) and views else views
        if not (isinstance(first, Tensor) and isinstance(targets, Tensor)):
            return None
        fits = targets.dtype == torch.int64 and targets.shape == first.shape[:1]
        return targets if fits else None

    def restore(self) -> None:
        """Uncover the class's own ``forward``."""
        del vars(self._criterion)["forward"]


def find_criteria(model: nn.Module) -> Iterator[LossSite]:
    """Yield the known criteria of ``model``, each once, under its path in the module tree."""
    for path, module in _own_modules("", model):
        kind = _kind(module)
        if kind is not None:
            yield CriterionSite(path or type(module).__name__, module, kind)


def site_of(module: nn.Module) -> LossSite | None:
    """Return the site of a known criterion that is not treated so far."""
    kind = _kind(module)
    if kind is None or "forward" in vars(module):
        return None
    return CriterionSite(type(module).__name__, module, kind)


def report_methods() -> Iterator[MethodReport]:
    """Yield every criterion of the installed Lightly and what can be done to it."""
    try:
        from lightly import loss
    except ImportError:
        return
    for name, value in sorted(vars(loss).items()):
        if not (inspect.isclass(value) and issubclass(value, nn.Module)):
            continue
        if name in _CRITERIA:
            yield MethodReport(name, True, _CRITERIA[name].note)
        else:
            yield MethodReport(name, False, _REFUSED.get(name, "no negatives to choose"))


def _kind(module: nn.Module) -> str | None:
    """Return which known criterion ``module`` is; a class that Lightly has dropped is none."""
    # Of a host that is not loaded there are no modules.
    loss = sys.modules.get("lightly.loss")
    kinds = (name for name in _CRITERIA if isinstance(module, getattr(loss, name, ())))
    return next(kinds, None)


def _own_modules(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    seen: set[int] = set()
    todo = [(path, module)]
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
