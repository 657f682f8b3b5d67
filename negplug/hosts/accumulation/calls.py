"""The loss calls of a logical batch: what each micro-batch gives them, and what it gets back.

A call is of the same loss and the same number in every micro-batch. Its arguments are joined to
those of the whole batch, in the order in which the recipe would have given them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from negplug.hosts.accumulation.functions import linked, replayed
from negplug.hosts.accumulation.rerouting import Loss
from negplug.hosts.treated_loss import TreatedLoss
from negplug.kernels import asked_for
from negplug.kernels.precision import without_autocast


class Call:
    """One loss call of a logical batch.

    Args:
        loss: The loss that is called.
        given: What each micro-batch gives it, without a graph.
        rows: Number of rows of each micro-batch.
        learning: Which of the arguments have a gradient, as :func:`learning` names them.

    Attributes:
        value: The loss of the whole batch: a leaf, whose gradient is what the step makes of it.
    """

    def __init__(
        self,
        loss: Loss,
        given: list[functools.partial[Tensor]],
        rows: Sequence[int],
        learning: list[Any],
    ) -> None:
        self.value: Tensor = torch.zeros(())
        self._where, self._by_view, self._shared = "the loss", False, tuple[str, ...]()
        if isinstance(loss, TreatedLoss):
            self._where = f"the loss {loss.name!r}"
            self._by_view, self._shared = loss.rows_by_view, loss.shared
        self._given = given
        self._rows = rows
        self._learning = learning
        self._gradients: list[list[Tensor]] = []
        self._direct: list[Tensor | None] = []

    def compute(self, parameters: list[Tensor]) -> Tensor:
        """Return the loss of the whole batch, with a graph that ends at its arguments."""
        joined = {name: self._joined(name) for name in _named(self._given[0])}
        for name in self._learning:
            joined[name] = linked(joined[name], parameters)
        self._arguments = [joined[name] for name in self._learning]
        positional = [joined[place] for place in range(len(self._given[0].args))]
        named = {name: joined[name] for name in self._given[0].keywords}
        loss = self._given[0].func(*positional, **named)
        self.value = loss.detach().requires_grad_()
        return loss

    def differentiate(self, loss: Tensor, parameters: list[Tensor], scale: Tensor | None) -> None:
        """Keep ∂L/∂z, and ∂L/∂θ where the loss itself depends on parameters.

        Args:
            loss: What :meth:`compute` has returned.
            parameters: Of the model.
            scale: Of a ``GradScaler``, so that half precision does not lose what is small.
        """
        wanted = [*self._arguments, *parameters]
        with without_autocast(loss.device), asked_for.to_train():
            found = torch.autograd.grad(loss, wanted, scale, allow_unused=True)
        if scale is not None:
            found = tuple(None if g is None else g.float() / scale for g in found)
        of_arguments = found[: len(self._arguments)]
        self._direct = list(found[len(self._arguments) :])
        self._gradients = [[] for _ in self._rows]
        for name, whole, gradient in zip(
            self._learning, self._arguments, of_arguments, strict=True
        ):
            gradient = torch.zeros_like(whole) if gradient is None else gradient
            for mine, piece in zip(self._gradients, self._pieces(name, gradient), strict=True):
                mine.append(piece)
        del self._arguments

    def replay(self, number: int, given: functools.partial[Tensor], check: bool) -> Tensor:
        """Return the loss of the whole batch, with the gradient to one micro-batch's arguments.

        Args:
            number: Of the micro-batch.
            given: What it gives when it is run again.
            check: Whether to compare that with what it gave before; waits for the device.

        Raises:
            RuntimeError: If it is something else.
        """
        before, now = _named(self._given[number]), _named(given)
        if learning(given) != self._learning:
            raise RuntimeError(f"accumulate: {self._where} is given other arguments {_AGAIN}")
        for name in self._learning if check else ():
            if not torch.allclose(before[name], now[name], rtol=1e-2, atol=1e-3, equal_nan=True):
                raise RuntimeError(
                    f"accumulate: {self._where} is given other embeddings {_AGAIN}: the step draws "
                    f"from another generator than the global ones, or keeps state that is not the "
                    f"model's"
                )
        return replayed(self.value, self._gradients[number], [now[n] for n in self._learning])

    def add_direct(self, total: list[Tensor | None], weight: Tensor) -> None:
        """Add what the loss itself depends on parameters, times ``weight``, to their gradients."""
        for place, gradient in enumerate(self._direct):
            if gradient is not None:
                before = total[place]
                more = gradient * weight
                total[place] = more if before is None else before + more

    def _joined(self, name: Any) -> Any:
        values = [_named(given)[name] for given in self._given]
        if isinstance(values[0], (list, tuple)):
            return self._joined_list(name, values)
        if hasattr(values[0], "__array__"):
            values = [torch.as_tensor(value) for value in values]
        if not self._has_rows(name, values[0]):
            return values[0]
        if values[0].dtype is torch.bool and values[0].ndim == 2:
            raise ValueError(
                f"accumulate: {self._where} is given {name}, which relates the rows of a "
                f"micro-batch to each other, so micro-batches cannot be joined; remove accumulate"
            )
        if not self._by_view:
            return torch.cat(values)
        views = [self._views(name, value, n) for value, n in zip(values, self._rows, strict=True)]
        return torch.cat(views, 1).flatten(0, 1)

    def _joined_list(self, name: Any, values: list[Any]) -> Any:
        """Join lists with one entry for each row, such as labels; another is the same in each."""
        if any(isinstance(each, Tensor) and each.ndim for each in values[0]):
            raise ValueError(
                f"accumulate: {self._where} is given {name}, a list of tensors, which cannot be "
                f"joined; give tensors, or remove accumulate"
            )
        if [len(value) for value in values] == list(self._rows):
            return [each for value in values for each in value]
        return values[0]

    def _pieces(self, name: Any, gradient: Tensor) -> list[Tensor]:
        """Split the gradient of a joined argument into that of each micro-batch's mean."""
        firsts = [_named(given)[name] for given in self._given]
        if not self._has_rows(name, firsts[0]):
            return [gradient] * len(self._rows)
        if self._by_view:
            views = gradient.reshape(-1, sum(self._rows), *gradient.shape[1:])
            pieces = [piece.flatten(0, 1) for piece in torch.split(views, list(self._rows), 1)]
        else:
            pieces = list(torch.split(gradient, [len(first) for first in firsts]))
        all_rows = sum(self._rows)
        return [p * (all_rows / n) for p, n in zip(pieces, self._rows, strict=True)]

    def _views(self, name: Any, value: Tensor, rows: int) -> Tensor:
        if len(value) % rows:
            raise ValueError(
                f"accumulate: {self._where} is given {name} with {len(value)} rows for a "
                f"micro-batch of {rows} samples, which is no number of views; remove accumulate"
            )
        return value.reshape(-1, rows, *value.shape[1:])

    def _has_rows(self, name: Any, value: Any) -> bool:
        return isinstance(value, Tensor) and bool(value.ndim) and name not in self._shared


_AGAIN = "when a micro-batch is run again"


def _named(given: functools.partial[Tensor]) -> dict[Any, Any]:
    """Return the arguments of a call by place or name."""
    return dict(enumerate(given.args)) | given.keywords


def learning(given: functools.partial[Tensor]) -> list[Any]:
    """Return which arguments of a call have a gradient, by place or name."""
    named = _named(given).items()
    return [name for name, value in named if isinstance(value, Tensor) and value.requires_grad]


def detached(given: functools.partial[Tensor]) -> functools.partial[Tensor]:
    """Return the same call with arguments that have no graph."""
    args = [value.detach() if isinstance(value, Tensor) else value for value in given.args]
    named = given.keywords.items()
    kwargs = {n: value.detach() if isinstance(value, Tensor) else value for n, value in named}
    return functools.partial(given.func, *args, **kwargs)
