"""What takes a place for the time of a fit, and is what was there before in a copy or a pickle."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

from torch.utils.data import BatchSampler

from negplug.hosts.cover import shown_signature


class StandIn(BatchSampler):
    """Stands in for a batch sampler; a subclass iterates in a way of its own.

    Its attributes are those of the other, to read and to set; its copy or pickle is the other.

    Args:
        replaced: The other.
        **own: Attributes of the subclass.
    """

    replaced: Any

    def __init__(self, replaced: Any, **own: Any) -> None:
        self.__dict__.update(replaced=replaced, **own)

    def __len__(self) -> int:
        return len(self.replaced)

    def __getattr__(self, name: str) -> Any:
        # An AttributeError before __init__ too, which Lightning may have wrapped.
        return getattr(object.__getattribute__(self, "replaced"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.replaced, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return same(self.replaced)


class HookStandIn:
    """Stands in for a method, as an attribute of its owner; in a copy or a pickle it is its own.

    Args:
        instead: Called in its place.
        owner: Of the method.
        name: Of the method.

    Attributes:
        over: Whether it has been taken off; beneath another one it stays until that is, too.
    """

    def __init__(self, instead: Callable[..., Any], owner: Any, name: str) -> None:
        functools.update_wrapper(self, instead)
        # Lightning looks through one wrapper alone.
        self.__wrapped__ = inspect.unwrap(instead)
        self._instead, self._owner, self._name = instead, owner, name
        self._set = vars(owner).get(name)
        self.over = False

    @property
    def __signature__(self) -> inspect.Signature | None:
        """Show Lightning which arguments the recipe's own has."""
        return shown_signature(self.__wrapped__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what stands in."""
        return self._instead(*args, **kwargs)

    def take_off(self) -> None:
        """Put the owner's own back, with others on top that are over, or leave that to these."""
        self.over = True
        own = vars(self._owner)
        while isinstance(top := own.get(self._name), HookStandIn) and top.over:
            if top._set is None:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, top._set)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._set is None:
            return getattr, (self._owner, self._name)
        return copy.copy, (self._set,)


def same(kept: Any) -> tuple[Any, ...]:
    """Return how a pickle makes the very ``kept`` in a stand-in's place, without negplug."""
    return operator.getitem, ((kept,), 0)
