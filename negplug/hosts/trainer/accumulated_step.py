"""A recipe's ``training_step`` on a large batch, run micro-batch by micro-batch.

The loader's batch is the logical batch: the recipe keeps its batch size, and its steps, schedules
and logs count logical batches as they did. Lightning's ``accumulate_grad_batches`` goes on adding
up the gradients of as many logical batches.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch

from negplug.hosts.accumulation.cache import GradientCache
from negplug.hosts.cover import shown_signature, twin_of
from negplug.hosts.injection import Injection, inject_where
from negplug.hosts.trainer.private import attached_trainer, loss_scaler
from negplug.hosts.treated_loss import TreatedLoss


class AccumulatedStep:
    """A ``training_step`` that is split. A plain object, so that the model stays picklable.

    ``__wrapped__`` shows Lightning the recipe's own step and its signature.

    Args:
        model: The ``LightningModule``.
        step: Its ``training_step``.
        accumulate: Number of micro-batches.
    """

    def __init__(self, model: Any, step: Callable[..., Any], accumulate: int) -> None:
        self.__wrapped__ = step
        self._model = model
        self._cache = GradientCache(model, (), accumulate)
        self._before = {n: v for n, v in vars(model).items() if n == "training_step"}

    @property
    def __signature__(self) -> inspect.Signature | None:
        """Show Lightning which arguments the recipe's own has."""
        return shown_signature(self.__wrapped__)

    @property
    def __code__(self) -> Any:
        """Tell Lightning, which looks through one wrapper alone, that the step is not its own."""
        return getattr(inspect.unwrap(self.__wrapped__), "__code__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the recipe's step."""
        losses: list[Any] = self._cache.losses
        if not torch.is_grad_enabled() or not losses or any(loss.captures for loss in losses):
            return self.__wrapped__(*args, **kwargs)
        if args:
            batch, step = args[0], lambda part: self.__wrapped__(part, *args[1:], **kwargs)
        else:
            batch, step = kwargs["batch"], lambda part: self.__wrapped__(**kwargs | {"batch": part})
        return self._cache.run(step, batch, loss_scaler(attached_trainer(self._model)))

    def __deepcopy__(self, memo: dict[int, Any]) -> AccumulatedStep:
        return twin_of(self, memo)

    def __reduce__(self) -> Any:
        return copy.copy, (self.__wrapped__,)  # what a recipe saves in training is its own

    def serve(self, losses: Iterable[TreatedLoss]) -> None:
        """Take these losses for the step's, too."""
        self._cache.losses += losses

    def leave(self, losses: Iterable[TreatedLoss]) -> None:
        """Take them for the step's no more; without any the recipe's own step is uncovered."""
        gone = list(losses)
        self._cache.losses = [loss for loss in self._cache.losses if loss not in gone]
        if not self._cache.losses:
            del vars(self._model)["training_step"]
            vars(self._model).update(self._before)


def inject_accumulated(accumulate: int, model: Any, *how: Any) -> Injection:
    """Return the handle of a Trainer's treated model, whose step is split until its removal.

    Args:
        accumulate: Number of micro-batches; one changes nothing.
        model: The ``LightningModule``. Its step may be split already, for its other losses.
        *how: As :func:`inject_where` treats it.

    Raises:
        ValueError: If the recipe's step cannot be run for a part of its batch.
    """
    if accumulate == 1:
        return _lent(inject_where(model, *how))
    if not model.automatic_optimization:
        raise ValueError(
            f"accumulate: {type(model).__name__} optimises by hand, so its training_step cannot be "
            f"run for parts of its batch; call negplug.accumulated() in it"
        )
    step = vars(model).get("training_step")
    if not isinstance(step, AccumulatedStep):
        # Before the treatment: what a site does around a step, it does around all micro-batches.
        step = AccumulatedStep(model, model.training_step, accumulate)
        model.training_step = step
    try:
        injection = inject_where(model, *how)
    except Exception:
        step.leave(())
        raise
    losses = list(injection.losses.values())
    step.serve(losses)
    injection.afterwards(functools.partial(step.leave, losses))
    return _lent(injection)


def _lent(injection: Injection) -> Injection:
    for treated in injection.losses.values():
        treated.lent = True
    return injection
