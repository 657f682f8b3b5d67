"""Classes that a user declares to be a criterion: vendored copies, subclasses with a new forward.

``NEGPLUG_TREAT="pkg.module:MyNTXent=ntxent"`` says that instances of ``MyNTXent``, called with the
embeddings ``[B, d]`` of two views, are to be treated as ``NTXentLoss``; several are separated by
commas. :func:`treat_as` says the same in Python.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Mapping

from torch import Tensor, nn

from negplug_lightly.treated import TreatedForward

VARIABLE = "NEGPLUG_TREAT"

FORMS = {"ntxent": "NTXentLoss", "dcl": "DCLLoss"}
"""What a class can be declared to be → the criterion of Lightly of that form."""

_by_function: dict[str, str] = {}


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
    name = f"{kind.__module__}:{kind.__qualname__}"
    _by_function[name] = _criterion(form, f"treat_as({name}, {form!r})")


def declared_form(module: nn.Module) -> str | None:
    """Return the criterion that a module's class, or one of its bases, is declared to be.

    Raises:
        ValueError: If the environment's declaration is malformed.
    """
    text = os.environ.get(VARIABLE, "")
    if not (text or _by_function):
        return None
    declared = {**_parsed(text), **_by_function}
    names = (f"{kind.__module__}:{kind.__qualname__}" for kind in type(module).__mro__)
    return next((declared[name] for name in names if name in declared), None)


def two_views(kind: type) -> bool:
    """Return whether a class's forward can be called with two tensors."""
    try:
        inspect.signature(kind.forward).bind(None, None, None)  # type: ignore[attr-defined]
    except TypeError:
        return False
    return True


@functools.cache
def _parsed(text: str) -> Mapping[str, str]:
    declared = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, form = part.partition("=")
        if not all(name.partition(":")):
            raise ValueError(f"{VARIABLE}: {part!r} must be of the form pkg.module:Class=ntxent")
        declared[name.strip()] = _criterion(form.strip(), f"{VARIABLE}: {part!r}")
    return declared


def _criterion(form: str, said: str) -> str:
    if form not in FORMS:
        raise ValueError(f"{said} names no form of a loss; there are {', '.join(FORMS)}")
    return FORMS[form]
