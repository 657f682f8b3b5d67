"""What covers a method of a host for a while, and what becomes of it in copies and pickles."""

from __future__ import annotations

import abc
import copy
import inspect
from typing import Any, TypeVar

from negplug.contract.adapter import Contrast
from negplug.hosts.treated_loss import TreatedLoss

_T = TypeVar("_T")


class Cover(abc.ABC):
    """Stands in the place of a method, as an attribute of what has it.

    A copy of the covered object is covered as well, for a copy of a model may be trained. So is its
    pickle, for other processes, unless a Trainer's callback treats it: what a recipe saves in
    training, a criterion among its hyperparameters for one, is the host's own.
    """

    contrast: Contrast
    """What computes the treated loss."""

    @abc.abstractmethod
    def covered(self) -> Any:
        """Return the method itself, bound."""

    def __deepcopy__(self: _T, memo: dict[int, Any]) -> _T:
        return twin_of(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self.contrast, TreatedLoss) and self.contrast.lent:
            return copy.copy, (self.covered(),)  # nothing of ours in the pickle
        return super().__reduce_ex__(protocol)


def twin_of(cover: _T, memo: dict[int, Any]) -> _T:
    """Return a deep copy of what stands in a method's place, whatever it leaves in a pickle."""
    twin = memo[id(cover)] = object.__new__(type(cover))
    vars(twin).update(copy.deepcopy(vars(cover), memo))
    return twin


def contrast_of(owner: Any) -> Contrast | None:
    """Return what computes the treated loss of a covered object, None if it is none."""
    covers = (each for each in vars(owner).values() if isinstance(each, Cover))
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


def is_covered(owner: Any, method: str) -> bool:
    """Return whether a method of an object is not that of its class any more."""
    own = vars(owner).get(method)
    # A pickled cover becomes an attribute that is the class's own.
    return own is not None and getattr(own, "__func__", None) is not getattr(type(owner), method)
