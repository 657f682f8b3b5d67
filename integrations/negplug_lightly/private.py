"""All that negplug takes from Lightly beyond its documented interface, one function each.

Each says in one sentence, with the installed version, if the thing it takes is gone;
``tests/hosts/lightly/test_private.py`` asks the installed Lightly for each. The documented
attributes of a criterion are checked where it is treated.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch

from negplug.contract import provenance


def changed(what: str, reader: str) -> RuntimeError:
    """Return the error that says what of the installed Lightly is not as expected.

    Args:
        what: What changed, as a clause.
        reader: The function of this module that relies on it.
    """
    return provenance.changed("lightly", what, f"{__name__}.{reader}")


def memory_bank(criterion: Any) -> Any:
    """Return the criterion's memory bank, None if it has none.

    Through Lightly 1.5.15 a criterion with a bank derives from the bank's class.
    """
    return getattr(criterion, "memory_bank", criterion if hasattr(criterion, "bank_ptr") else None)


def bank_size(criterion: Any) -> int:
    """Return how many keys the criterion's memory bank holds, 0 if it has none.

    A bank's ``size`` is ``(keys, width)``, or ``(0,)`` where it is switched off; in Lightly 1.4 it
    is the number of keys.
    """
    bank = memory_bank(criterion)
    if bank is None:
        return 0
    size = getattr(bank, "size", None)
    if bank is criterion and isinstance(size, int):
        return size
    if not (isinstance(size, Sequence) and size and isinstance(size[0], int)):
        what = f"the memory bank of {type(criterion).__name__} has the size {size!r}, no sequence"
        raise changed(f"{what} of integers", "bank_size")
    return size[0]


def overridden(criterion: type, base: type, methods: Sequence[str]) -> str | None:
    """Return the first method that a class has in another form than its base, or None.

    Args:
        criterion: The class of a criterion, of Lightly or of a recipe.
        base: The criterion of Lightly that it is, or derives from.
        methods: The methods that make up the base's loss, those with an underscore included.
    """
    for method in methods:
        if not hasattr(base, method):
            raise changed(f"{base.__name__} has no method {method} any more", "overridden")
        if getattr(criterion, method) is not getattr(base, method):
            return method
    return None


@functools.cache
def has_denominator_per_view() -> bool:
    """Return whether ``DCLLoss`` has two denominators, as in 1.5.15, where later ones have one.

    Asked of the loss itself: two orthogonal samples, each the positive of itself, have one negative
    of similarity 0 in each view, so the loss is log(1 + 1) − 1, or 2·log 1 − 1.
    """
    base = importlib.import_module("lightly.loss.dcl_loss").DCLLoss
    with torch.no_grad():
        found = float(base(temperature=1.0)._loss(*(torch.eye(2),) * 4))
    return found < (math.log(2) - 2) / 2


def mises_fisher_sigma(weights: Any) -> float | None:
    """Return σ of Lightly's von Mises–Fisher weights, None if ``weights`` is another function.

    ``DCLWLoss`` keeps them as a partial of a function in ``lightly.loss.dcl_loss``; a recipe may
    give either to ``DCLLoss``.
    """
    name = "negative_mises_fisher_weights"
    try:
        known = getattr(importlib.import_module("lightly.loss.dcl_loss"), name)
    except (ImportError, AttributeError):
        what = f"lightly.loss.dcl_loss has no {name} any more"
        raise changed(what, "mises_fisher_sigma") from None
    if getattr(weights, "func", weights) is not known:
        return None
    # Of the function or of a partial, whichever it is.
    sigma = inspect.signature(weights).parameters.get("sigma")
    if sigma is None or sigma.default is sigma.empty:
        raise changed(f"{name} has no sigma with a default any more", "mises_fisher_sigma")
    return float(sigma.default)
