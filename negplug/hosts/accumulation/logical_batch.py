"""One logical batch: embedded, compared, and run again for its gradient (see ``cache``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from negplug.hosts.accumulation.calls import Call, detached, learning
from negplug.hosts.accumulation.functions import known
from negplug.hosts.accumulation.model_state import ModelState
from negplug.hosts.accumulation.outputs import joined, loss_of, without_graph
from negplug.hosts.accumulation.reports import Reports
from negplug.hosts.accumulation.requirements import Requirements
from negplug.hosts.accumulation.rerouting import Loss, Route, rerouted
from negplug.hosts.accumulation.splitting import MicroBatch
from negplug.kernels import asked_for
from negplug.kernels.precision import without_autocast
from negplug.kernels.rng_states import RngStates

Given = list[tuple[Loss, functools.partial[Tensor]]]


class LogicalBatch:
    """A training step on a batch that was split.

    Args:
        model: What it trains.
        losses: The contrastive losses that it calls.
        step: Maps a batch to what the recipe returns.
        parts: The micro-batches, two or more.
        first: What to insist on, in the first step; None later.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Sequence[Loss],
        step: Callable[[Any], Any],
        parts: Sequence[MicroBatch],
        first: Requirements | None,
    ) -> None:
        self._model = model
        self._losses = losses
        self._step = step
        self._parts = parts
        self._rows = [part.rows for part in parts]
        self._first = first
        self._parameters = _trained(model, losses)
        self._device = next(model.parameters()).device
        self._learning: list[list[Any]] = []

    def run(self, scaler: torch.amp.GradScaler | None) -> Any:
        """Return what the step returns for the whole batch, its loss with its gradient."""
        reports = Reports(self._rows)
        with reports.taken(self._model):
            state = ModelState(self._model, self._losses)
            if self._first is not None:
                self._first.check_rows(self._step, self._parts[0], state, self._losses)
            randoms, given = self._embed(state)
            scale = None
            if scaler is not None and scaler.is_enabled():
                scale = scaler.scale(torch.ones((), device=self._device))
            calls = self._compare(given, scale)
            return self._train(state, randoms, given, calls, scale, reports)

    def _embed(self, state: ModelState) -> tuple[list[RngStates], list[Given]]:
        """Run each micro-batch up to what its losses are given; leave no trace."""
        randoms, given = [], []
        for number, part in enumerate(self._parts):
            taken: Given = []
            randoms.append(RngStates.now(self._device))
            torch.clear_autocast_cache()
            # The first with a graph, which tells what the losses are to be differentiated by.
            learns = number == 0
            with rerouted(self._losses, self._taking(taken)), torch.set_grad_enabled(learns):
                self._step(part.taken())
            if self._first is not None and number < 2:
                self._first.check_state(state)
            state.restore()
            if learns:
                if self._first is not None:
                    self._first.check_called(taken)
                self._learning = [learning(call) for _, call in taken]
            given.append([(loss, detached(call)) for loss, call in taken])
        for taken in given[1:]:
            _check_calls(given[0], taken)
        return randoms, given

    def _taking(self, taken: Given) -> Route:
        def take(loss: Loss, call: functools.partial[Tensor]) -> Tensor:
            taken.append((loss, call))
            return torch.zeros((), device=self._device, requires_grad=torch.is_grad_enabled())

        return take

    def _compare(self, given: list[Given], scale: Tensor | None) -> list[Call]:
        """Compute the losses of the whole batch, and their gradient to the embeddings."""
        calls, losses = [], []
        for number, (loss, _) in enumerate(given[0]):
            each = [taken[number][1] for taken in given]
            calls.append(Call(loss, each, self._rows, self._learning[number]))
        for call in calls:
            losses.append(call.compute(self._parameters))
        for call, value in zip(calls, losses, strict=True):
            call.differentiate(value, self._parameters, scale)
        return calls

    def _train(
        self,
        state: ModelState,
        randoms: list[RngStates],
        given: list[Given],
        calls: list[Call],
        scale: Tensor | None,
        reports: Reports,
    ) -> Any:
        gradients: list[Tensor | None] = [None] * len(self._parameters)
        wanted = [*self._parameters, *(call.value for call in calls)]
        weights: list[Tensor | None] = [None] * len(calls)
        outputs, values = [], []
        for number, part in enumerate(self._parts):
            randoms[number].restore()
            torch.clear_autocast_cache()
            if number:
                state.rewind()
            reports.number, again = number, list[Any]()
            with rerouted(self._losses, self._replaying(number, calls, again)):
                output = self._step(part.taken())
            reports.number = None
            _check_calls(given[0], again)
            loss = loss_of(output)
            if loss is not None:
                loss = loss * (part.rows / sum(self._rows))
                if self._first is not None:
                    self._first.check_leaves(loss, wanted)
                scaled = loss if scale is None else loss * scale
                with without_autocast(self._device), asked_for.to_train():
                    found = torch.autograd.grad(scaled, wanted, allow_unused=True)
                _add(gradients, found[: len(gradients)])
                _add(weights, found[len(gradients) :])
                values.append(loss.detach())
            outputs.append(without_graph(output))
        if not values:
            return None
        for call, weight in zip(calls, weights, strict=True):
            if weight is not None:
                call.add_direct(gradients, weight)
        total = known(torch.stack(values).sum(), gradients, self._parameters, scale)
        return joined(outputs, self._rows, total)

    def _replaying(self, number: int, calls: list[Call], again: list[Any]) -> Route:
        check = self._first is not None

        def replay(loss: Loss, call: functools.partial[Tensor]) -> Tensor:
            again.append((loss, call))
            if len(again) > len(calls):
                return torch.zeros((), device=self._device)  # refused in a moment
            return calls[len(again) - 1].replay(number, call, check)

        return replay


def _trained(model: nn.Module, losses: Sequence[Loss]) -> list[Tensor]:
    """Return the parameters of a model, and those that losses have for themselves, each once."""
    own = (loss if isinstance(loss, nn.Module) else loss.loss for loss in losses)
    modules = [model, *own]
    each = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    return list(each.values())


def _check_calls(first: Given, other: Given) -> None:
    if [loss for loss, _ in first] != [loss for loss, _ in other]:
        raise RuntimeError(
            f"accumulate: the step calls its contrastive losses {len(first)} times for one "
            f"micro-batch and {len(other)} times, or others, for another; remove accumulate, or "
            f"have the step call the same for every batch"
        )


def _add(total: list[Tensor | None], more: Sequence[Tensor | None]) -> None:
    for place, gradient in enumerate(more):
        if gradient is not None:
            before = total[place]
            # A clone: autograd may give two leaves the same tensor.
            total[place] = gradient.clone() if before is None else before.add_(gradient)
