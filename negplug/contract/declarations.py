"""Classes that a user declares to be a form of loss that an adapter knows.

A declaration is ``pkg.module:Class=form``; ``NEGPLUG_TREAT`` holds several, separated by commas.
What a form is, is the adapter's affair.
"""

from __future__ import annotations

import contextvars
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from torch import nn

from negplug.contract.variables import TREAT_VARIABLE, declared_classes

Declarations: TypeAlias = str | Mapping[type[nn.Module] | str, str]
"""``"pkg.module:Class=form,…"``, or classes or their names → forms."""

_always: dict[str, str] = {}
_met: set[str] = set()
_here: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar("declared")


def declare(kind: type[nn.Module], form: str) -> None:
    """Declare a class for as long as this process lives."""
    _always[full_name(kind)] = form


@contextmanager
def declaring(declared: Mapping[str, str]) -> Iterator[None]:
    """Declare classes, by their full names, inside of a ``with`` block."""
    token = _here.set(declared)
    try:
        yield
    finally:
        _here.reset(token)


def all_declared() -> Mapping[str, str]:
    """Return the form of each declared class, by its full name.

    Raises:
        ValueError: If the environment's declarations are malformed.
    """
    text = os.environ.get(TREAT_VARIABLE, "")
    here = _here.get(None) or {}
    if not (text or _always or here):
        return {}
    return {**_of_environment(text), **_always, **here}


def declared_name(module: nn.Module, declared: Mapping[str, str]) -> str | None:
    """Return which declared class a module is of, or derives from."""
    names = map(full_name, type(module).__mro__)
    found = next((name for name in names if name in declared), None)
    if found is not None:
        _met.add(found)
    return found


def unmet() -> list[str]:
    """Return the classes that the environment declares and of which no module was looked at."""
    return [
        name for name in _of_environment(os.environ.get(TREAT_VARIABLE, "")) if name not in _met
    ]


def as_declared(given: Declarations | None) -> dict[str, str]:
    """Return the forms of an argument ``treat``, by full names.

    Raises:
        ValueError, TypeError: If it holds no declarations.
    """
    if given is None:
        return {}
    if isinstance(given, str):
        return declared_classes("treat", given)
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise TypeError(f'treat must be "pkg.module:Class=ntxent" or a mapping, got {kind}')
    named = {kind if isinstance(kind, str) else full_name(kind): f for kind, f in given.items()}
    return declared_classes("treat", ",".join(f"{name}={form}" for name, form in named.items()))


def full_name(kind: type) -> str:
    """Return the name of a class as declarations have it, ``pkg.module:Class``."""
    return f"{kind.__module__}:{kind.__qualname__}"


@functools.cache
def _of_environment(text: str) -> Mapping[str, str]:
    return declared_classes(TREAT_VARIABLE, text)
