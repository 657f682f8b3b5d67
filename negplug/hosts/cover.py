"""What covers a method of a host for a while, and what becomes of it in copies and pickles."""

from __future__ import annotations

import abc
import copy
import inspect
import itertools
import types
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

from negplug.contract.adapter import Contrast
from negplug.hosts.treated_loss import TreatedLoss

_T = TypeVar("_T")

_OF_PRECISION = ("torch.amp.", "accelerate.")
"""Modules whose wrappers change the precision of a method, and nothing else."""


class Cover(abc.ABC):
    """Stands in the place of a method, as an attribute of what has it.

    A copy of the covered object is covered as well, for a copy of a model may be trained. So is its
    pickle, for other processes, unless a Trainer's callback treats it: what a recipe saves in
    training, a criterion among its hyperparameters for one, is the host's own.
    """

    contrast: Contrast
    """What computes the treated loss."""

    before: Any = None
    """What else stood in the method's place, an autocast around it, say; None if nothing did."""

    @abc.abstractmethod
    def covered(self) -> Any:
        """Return the method itself, bound; or what stood in its place."""

    def __deepcopy__(self: _T, memo: dict[int, Any]) -> _T:
        return twin_of(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self.contrast, TreatedLoss) and self.contrast.lent:
            return copy.copy, (self.covered(),)  # nothing of ours in the pickle
        return super().__reduce_ex__(protocol)


_METHODS = (Cover, types.FunctionType, types.MethodType)
"""What stands in a method's place: of ours, or a wrapper that may be around one of ours."""


def twin_of(cover: _T, memo: dict[int, Any]) -> _T:
    """Return a deep copy of what stands in a method's place, whatever it leaves in a pickle."""
    twin = memo[id(cover)] = object.__new__(type(cover))
    vars(twin).update(copy.deepcopy(vars(cover), memo))
    return twin


def contrast_of(owner: Any) -> Contrast | None:
    """Return what computes the treated loss of a covered object, None if it is none."""
    methods = (name for name, value in vars(owner).items() if isinstance(value, _METHODS))
    covers = (cover for method in methods for cover in _covers_of(owner, method))
    return next((cover.contrast for cover in covers), None)


def shown_signature(method: Any) -> inspect.Signature | None:
    """Return the signature from which Lightning before 2.0 reads arguments, ``self`` included.

    Lightning follows no ``__wrapped__``, and takes ``*args`` for every argument that there may be.
    """
    own = inspect.unwrap(method)
    try:
        return inspect.signature(getattr(own, "__func__", own))
    except (TypeError, ValueError):  # of some builtins
        return None


def put_on(cover: Cover, owner: Any, method: str) -> None:
    """Cover a method of an object."""
    cover.before = vars(owner).get(method)
    vars(owner)[method] = cover


def take_off(owner: Any, method: str) -> None:
    """Uncover a method of an object, and what stood in its place; warn of what goes with it."""
    (cover,) = itertools.islice(_covers_of(owner, method), 1)
    if vars(owner).pop(method) is not cover:
        warnings.warn(
            f"{type(owner).__name__}.{method} has been wrapped since it was treated, and remove() "
            f"has taken the wrapper away too; wrap it again if it is needed",
            stacklevel=3,
        )
    if cover.before is not None:
        vars(owner)[method] = cover.before


def is_covered(owner: Any, method: str) -> bool:
    """Return whether a method of an object is covered, be it inside of wrappers."""
    return any(True for _ in _covers_of(owner, method))


def insist_on_own(owner: Any, method: str, named: tuple[str, str], mend: str) -> None:
    """Insist that a method of a loss is that of its class, which nobody has covered yet.

    Args:
        owner: The loss.
        method: Its method.
        named: The host, and the name of the loss.
        mend: What to do if the loss has another one, set on the object.

    Raises:
        ValueError: If it is not.
    """
    host, name = named
    if is_covered(owner, method):
        raise ValueError(f"{host}: {name!r} is treated already; remove() that first")
    if _is_replaced(owner, method):
        raise ValueError(
            f"{host}: {name!r} has a {method} of its own, set on the object, so its loss is not "
            f"known; {mend}, or leave it alone with NEGPLUG_IGNORE={name}"
        )


def _is_replaced(owner: Any, method: str) -> bool:
    """Return whether a method of an object is not that of its class, in whatever precision.

    ``accelerator.prepare`` puts a wrapper in its place. A pickled cover becomes an attribute that
    is the class's own.
    """
    own = getattr(type(owner), method)
    *around, last = [*_in_place_of(owner, method)] or [own]
    return last is not own or not all(map(_is_of_precision, around))


def _covers_of(owner: Any, method: str) -> Iterator[Cover]:
    for each in _in_place_of(owner, method):
        if isinstance(each, Cover):
            yield each


def _in_place_of(owner: Any, method: str) -> Iterator[Any]:
    """Yield what stands in a method's place, and what that is around, from the outermost."""
    found = vars(owner).get(method)
    while found is not None:
        found = getattr(found, "__func__", found)
        yield found
        if found is getattr(type(owner), method, None):
            return
        found = getattr(found, "__wrapped__", None)


def _is_of_precision(wrapper: Any) -> bool:
    home = getattr(wrapper, "__globals__", {}).get("__name__", type(wrapper).__module__)
    return str(home).startswith(_OF_PRECISION)
