"""Classes that a user declares to be a criterion: vendored copies, subclasses with a new forward.

``NEGPLUG_TREAT="pkg.module:MyNTXent=ntxent"`` says that instances of ``MyNTXent``, called with the
embeddings ``[B, d]`` of two views, are to be treated as ``NTXentLoss``; several are separated by
commas. ``--treat``, an argument ``treat`` and :func:`treat_as` say the same. The first training
call compares the class's own value with that of the form, see :mod:`negplug_lightly.comparison`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from negplug.contract.adapter import Contrast, Metadata
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.declarations import all_declared, declare, declared_name, full_name
from negplug.contract.objective import Objective
from negplug.contract.variables import FORMS
from negplug_lightly import comparison, criteria
from negplug_lightly.treated import TreatedForward


class Form(NamedTuple):
    """What a class can be declared to be.

    Attributes:
        batch: How it forms its batch.
        objective: Its loss of a batch.
        symmetric: Whether it is the mean of both directions, each a batch of its own.
    """

    batch: Callable[[Any, Metadata, Tensor, Tensor], ContrastiveBatch]
    objective: Callable[[Any], Objective]
    symmetric: bool = False

    def batches(
        self, criterion: Any, metadata: Metadata, out0: Tensor, out1: Tensor
    ) -> Iterator[ContrastiveBatch]:
        """Yield the batches whose mean loss it is."""
        yield self.batch(criterion, metadata, out0, out1)
        if self.symmetric:
            yield self.batch(criterion, metadata, out1, out0)


TERMS = {
    "ntxent": Form(criteria.views_or_pairs, criteria.softmax),
    "dcl": Form(criteria.both_views, criteria.decoupled),
    "infonce": Form(criteria.one_direction, criteria.softmax),
    "clip": Form(criteria.one_direction, criteria.softmax, symmetric=True),
}
"""Each form's own terms."""


class TreatedDeclared(TreatedForward):
    """The treated forward of a declared class, whose two parameters have names of its own."""

    def __init__(self, criterion: nn.Module, form: str, contrast: Contrast) -> None:
        self.criterion: Any = criterion
        self.form = form
        self.contrast = contrast
        self._compared = False

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Return the treated loss of the projections ``[B, d]`` of two views."""
        if kwargs:
            signature = inspect.signature(type(self.criterion).forward)
            args = signature.bind(self.criterion, *args, **kwargs).args[1:]
        return super().__call__(*args)

    def _treated(self, out0: Tensor, out1: Tensor) -> Tensor:
        with self.contrast.together(out0, out1):
            if not self._compared and torch.is_grad_enabled():
                comparison.insist(
                    self.criterion, self.form, self.contrast.temperature, TERMS, out0, out1
                )
                self._compared = True
            form = TERMS[self.form]
            temperature = getattr(self.criterion, "temperature", 1.0)
            known = self.criterion, self.contrast.metadata, out0, out1
            losses = [
                self.contrast(
                    batch, objective=form.objective(self.criterion), temperature=temperature
                )
                for batch in form.batches(*known)
            ]
            return torch.stack(losses).mean() if form.symmetric else losses[0]


def treat_as(kind: type[nn.Module], form: str) -> None:
    """Declare that a class is to be treated as a form of loss.

    Args:
        kind: A module that is called with the embeddings ``[B, d]`` of two views.
        form: ``"ntxent"`` or ``"dcl"``, Lightly's ``NTXentLoss`` and ``DCLLoss``; ``"infonce"``,
            the first view's rows against the second's; ``"clip"``, the mean of both directions.

    Raises:
        ValueError: If there is no such form.
    """
    if form not in FORMS:
        said = f"treat_as({full_name(kind)}, {form!r})"
        raise ValueError(f"{said} names no form of a loss; there are {', '.join(FORMS)}")
    declare(kind, form)


def declared_form(module: nn.Module) -> str | None:
    """Return the form that a module's class, or one of its bases, is declared to be.

    Raises:
        ValueError: If a declaration is malformed, or names no form.
    """
    declared = all_declared()
    name = declared_name(module, declared) if declared else None
    return None if name is None else declared[name]


def two_views(kind: type) -> bool:
    """Return whether a class's forward can be called with two tensors."""
    try:
        inspect.signature(kind.forward).bind(None, None, None)  # type: ignore[attr-defined]
    except TypeError:
        return False
    return True
