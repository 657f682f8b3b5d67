"""All that negplug takes from solo-learn beyond calling it, one function each.

solo-learn has no interface for another loss: its methods call their loss functions by name, in
the globals of their modules. Each function here says in one sentence, with the installed version,
if the thing it takes is gone; ``tests/hosts/solo/test_private.py`` asks the installed solo-learn
for each.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from negplug.contract import provenance


def changed(what: str, reader: str) -> RuntimeError:
    """Return the error that says what of the installed solo-learn is not as expected.

    Args:
        what: What changed, as a clause.
        reader: The function of this module that relies on it.
    """
    return provenance.changed("solo-learn", what, f"{__name__}.{reader}")


def module_of(model: nn.Module, name: str) -> ModuleType | None:
    """Return the module of the method class ``name`` if ``model`` is of that class, else None.

    A method is in ``solo.methods``, in a module of its own name in lower case. A class that
    solo-learn has dropped is none.
    """
    module = sys.modules.get(f"solo.methods.{name.lower()}")
    return module if isinstance(model, getattr(module, name, ())) else None


def method_classes() -> dict[str, type]:
    """Return the method classes of the installed solo-learn by name; none if there is no host."""
    try:
        methods = importlib.import_module("solo.methods")
    except ImportError:
        return {}
    if not isinstance(getattr(methods, "METHODS", None), Mapping):
        raise changed("solo.methods has no dictionary METHODS any more", "method_classes")
    return {kind.__name__: kind for kind in methods.METHODS.values() if inspect.isclass(kind)}


def own_queue_size(model: nn.Module) -> int | None:
    """Return how many keys the queue of a method holds, None if it says nothing of a queue."""
    size: int | None = getattr(model, "queue_size", None)
    return size


def is_supervised(model: nn.Module) -> bool:
    """Return whether labels make positives: 1.0.2's flag of SimCLR, which main has not."""
    return bool(getattr(model, "supervised", False))


def loss_form(module: ModuleType, name: str, helpers: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the parameters of a loss function, and which helper it gathers with over ranks.

    The same parameters may mean this rank's keys or those of all, which no signature tells. So
    the names that its compiled code mentions are read.

    Args:
        module: The method's.
        name: Of the function in the globals of that module.
        helpers: Those of solo-learn that gather, in the order in which they are looked for.

    Returns:
        The parameters, and the helper or the empty string.
    """
    function = inspect.unwrap(getattr(module, name))
    parameters = tuple(inspect.signature(function).parameters)
    code = getattr(function, "__code__", None)
    if code is None:
        what = f"{module.__name__}.{name} is no plain function, so its code cannot be read"
        raise changed(what, "loss_form")
    return parameters, next((helper for helper in helpers if helper in code.co_names), "")


@contextlib.contextmanager
def swapped(module: str, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Put functions in the place of those that a module calls by name, and put them back.

    Args:
        module: Name of the method's module.
        functions: By name, each of which the module must have.
    """
    names = vars(sys.modules[module])
    if missing := [name for name in functions if name not in names]:
        raise changed(f"{module} has no {' and no '.join(missing)} any more", "swapped")
    before = {name: names[name] for name in functions}
    names.update(functions)
    try:
        yield
    finally:
        names.update(before)
