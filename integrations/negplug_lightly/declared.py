"""Classes that a user declares to be a criterion: vendored copies, subclasses with a new forward.

``NEGPLUG_TREAT="pkg.module:MyNTXent=ntxent"`` says that instances of ``MyNTXent``, called with the
embeddings ``[B, d]`` of two views, are to be treated as ``NTXentLoss``; several are separated by
commas. ``--treat``, an argument ``treat`` and :func:`treat_as` say the same.
"""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from negplug.contract.declarations import all_declared, declare, declared_name, full_name
from negplug_lightly.treated import TreatedForward

FORMS = {"ntxent": "NTXentLoss", "dcl": "DCLLoss"}
"""What a class can be declared to be → the criterion of Lightly of that form."""


class TreatedDeclared(TreatedForward):
    """The treated forward of a declared class, whose two parameters have names of its own."""

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Return the treated loss of the projections ``[B, d]`` of two views."""
        if kwargs:
            signature = inspect.signature(type(self.criterion).forward)
            args = signature.bind(self.criterion, *args, **kwargs).args[1:]
        return super().__call__(*args)


def treat_as(kind: type[nn.Module], form: str) -> None:
    """Declare that a class is to be treated as a criterion of Lightly.

    Args:
        kind: A module that is called with the embeddings ``[B, d]`` of two views.
        form: ``"ntxent"`` or ``"dcl"``.

    Raises:
        ValueError: If there is no such form.
    """
    _criterion(form, f"treat_as({full_name(kind)}, {form!r})")
    declare(kind, form)


def declared_form(module: nn.Module) -> str | None:
    """Return the criterion that a module's class, or one of its bases, is declared to be.

    Raises:
        ValueError: If a declaration is malformed, or names no form.
    """
    declared = all_declared()
    if not declared:
        return None
    name = declared_name(module, declared)
    criteria = {kind: _criterion(f, repr(f"{kind}={f}")) for kind, f in declared.items()}
    return None if name is None else criteria[name]


def two_views(kind: type) -> bool:
    """Return whether a class's forward can be called with two tensors."""
    try:
        inspect.signature(kind.forward).bind(None, None, None)  # type: ignore[attr-defined]
    except TypeError:
        return False
    return True


def _criterion(form: str, said: str) -> str:
    if form not in FORMS:
        raise ValueError(f"{said} names no form of a loss; there are {', '.join(FORMS)}")
    return FORMS[form]
