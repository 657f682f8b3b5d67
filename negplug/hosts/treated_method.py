"""What covers a method of a host's loss, and what it tells the adapter of a call."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from negplug.contract.adapter import Contrast
from negplug.hosts.cover import Cover
from negplug.kernels.torch_private import outside_graphs


class LossCall(NamedTuple):
    """A call of a treated loss.

    Attributes:
        contrast: Computes the treated loss of a batch.
        loss: The host's loss, whose attributes are read at every call: a recipe may change them.
        around: The host's wrappers that it is inside of, from the outermost.
    """

    contrast: Contrast
    loss: Any
    around: tuple[nn.Module, ...] = ()

    def known_of(self, rows: Tensor) -> dict[str, Any]:
        """Return what is known of the samples, as a batch takes it.

        Args:
            rows: ``[B, …]``, one for each sample.
        """
        return self.contrast.metadata.of(len(rows))


class TreatedMethod(Cover):
    """A method of a loss, rerouted. A plain object, so that the model stays picklable.

    Args:
        call: Contrast, loss and what is around it.
        function: Takes these and the method's arguments.
        method: The name of the method.
    """

    def __init__(self, call: LossCall, function: Callable[..., Tensor], method: str) -> None:
        self._call, self._function, self._method = call, function, method
        self.contrast = call.contrast

    def covered(self) -> Any:
        """Return the loss's own method, or what stood in its place."""
        return self.before or types.MethodType(
            getattr(type(self._call.loss), self._method), self._call.loss
        )

    @outside_graphs  # the tracers of torch 2.6 and 2.7 fail at the batch
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the treated loss of what the host's method is given."""
        loss = self._call.loss
        own = functools.partial(self.covered(), *args, **kwargs)
        sizes = [len(value) if isinstance(value, list) else None for value in args]
        flat = [each for value in args for each in (value if isinstance(value, list) else [value])]
        treated = functools.partial(_Relisted(self._treated, sizes), *flat, **kwargs)
        learns = loss.training and all(part.training for part in loss.children())
        return self.contrast.returned(own, treated, learns)

    def _treated(self, *args: Any, **kwargs: Any) -> Tensor:
        flat = (each for value in args for each in (value if isinstance(value, list) else [value]))
        with self.contrast.together(*flat, *kwargs.values()):
            return self._function(self._call, *args, **kwargs)


class _Relisted:
    """A function that is given the entries of lists one by one, as micro-batches are joined.

    Args:
        function: Takes the lists.
        sizes: Of each positional argument the length if it is a list, None if it is none.
    """

    def __init__(self, function: Callable[..., Tensor], sizes: list[int | None]) -> None:
        self._function, self._sizes = function, sizes

    def __call__(self, *entries: Any, **kwargs: Any) -> Tensor:
        """Return what the function does."""
        left = iter(entries)
        args = (
            next(left) if size is None else [next(left) for _ in range(size)]
            for size in self._sizes
        )
        return self._function(*args, **kwargs)
