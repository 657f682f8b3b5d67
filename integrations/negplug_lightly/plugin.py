"""Lightly's criteria as loss sites.

A criterion is found anywhere in a module and treated by shadowing ``forward`` on the instance:
its identity, its hooks, its place in the module tree and its ``state_dict`` stay as they are.
To treat a further criterion, add a line to ``_CRITERIA``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from negplug.adapter import Contrast, LossSite, MethodReport
from negplug.hookspecs import AdapterSpec, hookimpl
from negplug.provenance import installed_version
from negplug_lightly.criteria import ntxent

Treatment = Callable[[Any, Contrast, Tensor, Tensor], Tensor]

_CRITERIA: dict[str, Treatment] = {"NTXentLoss": ntxent}
"""Class in ``lightly.loss`` → its treatment."""

_NOT_YET = ("DCLLoss", "DCLWLoss", "MACLLoss")
"""Contrastive criteria without an adapter so far."""

_ARGUMENTS = ["self", "out0", "out1"]


class TreatedForward:
    """A criterion's ``forward``, rerouted. A plain object, so that the model stays picklable."""

    def __init__(self, criterion: nn.Module, treatment: Treatment, contrast: Contrast) -> None:
        self.criterion = criterion
        self.treatment = treatment
        self.contrast = contrast

    def __call__(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Return the treated loss of the projections ``[B, d]`` of two views."""
        return self.treatment(self.criterion, self.contrast, out0, out1)


class CriterionSite(LossSite):
    """A criterion inside a module."""

    def __init__(self, name: str, criterion: nn.Module, base: str) -> None:
        self.name = name
        self._base = base
        found = installed_version("lightly") or "(unknown version)"
        self.host = f"lightly {found} {type(criterion).__name__}"
        self._criterion = criterion

    def treat(self, contrast: Contrast) -> None:
        """Shadow the criterion's ``forward``."""
        known = getattr(sys.modules["lightly.loss"], self._base)
        if type(self._criterion).forward is not known.forward:
            raise ValueError(
                f"{self.host}: {self.name!r} overrides the forward of {self._base}, so its loss is "
                f"not known; name another loss as target, or treat it in the subclass"
            )
        arguments = list(inspect.signature(type(self._criterion).forward).parameters)
        if arguments != _ARGUMENTS:
            raise ValueError(
                f"{self.host}: forward takes {arguments}, but this adapter expects {_ARGUMENTS}; "
                f"use another version of lightly or of negplug"
            )
        if "forward" in vars(self._criterion):
            raise ValueError(f"{self.host}: {self.name!r} is treated already; remove() that first")
        if _bank_size(self._criterion):
            raise ValueError(
                f"{self.host}: {self.name!r} takes its negatives from a memory bank, which cannot "
                f"be treated yet; set memory_bank_size=0"
            )
        vars(self._criterion)["forward"] = TreatedForward(
            self._criterion, _CRITERIA[self._base], contrast
        )

    def restore(self) -> None:
        """Uncover the class's own ``forward``."""
        del vars(self._criterion)["forward"]


def find_criteria(model: nn.Module) -> Iterator[LossSite]:
    """Yield the known criteria of ``model``, each once, under its path in the module tree."""
    if "lightly" not in sys.modules:
        return
    from lightly import loss

    for path, module in _own_modules("", model):
        for name in _CRITERIA:
            if isinstance(module, getattr(loss, name)):
                yield CriterionSite(path or type(module).__name__, module, name)


def report_methods() -> Iterator[MethodReport]:
    """Yield every criterion of the installed Lightly and what can be done to it."""
    try:
        from lightly import loss
    except ImportError:
        return
    for name in sorted(vars(loss)):
        if not name.endswith("Loss") and name not in _CRITERIA:
            continue
        if name in _CRITERIA:
            yield MethodReport(name, True, "every sampler, without memory bank")
        else:
            note = "contrastive, no adapter yet" if name in _NOT_YET else "no negatives to choose"
            yield MethodReport(name, False, note)


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


def _bank_size(criterion: nn.Module) -> int:
    bank: Any = getattr(criterion, "memory_bank", None)
    return int(bank.size[0]) if bank is not None else 0


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the Lightly adapter."""
    yield AdapterSpec("lightly", find_criteria, report_methods, "criteria of lightly.loss")
