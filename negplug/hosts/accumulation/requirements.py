"""What a step must be like for micro-batches to make the step on the whole batch.

Found out in the first step, on its first micro-batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from negplug.hosts.accumulation.model_state import ModelState, dependent
from negplug.hosts.accumulation.outputs import loss_of
from negplug.hosts.accumulation.rerouting import Loss, rerouted
from negplug.hosts.accumulation.splitting import MicroBatch, split
from negplug.hosts.graph_parameters import parameters_of
from negplug.kernels.distributed import rank
from negplug.kernels.precision import autocast_is_on
from negplug.kernels.rng_states import RngStates

logger = logging.getLogger("negplug")

# Modules of other packages that draw what they drop.
_DROPPING = ("DropPath", "StochasticDepth")


class Requirements:
    """What the first step of a model is asked.

    Args:
        model: What the step trains.
        insists: Whether one of the contrastive losses has to be called.

    Raises:
        ValueError: If a gradient of the model has a hook, which would be run for each micro-batch.
    """

    def __init__(self, model: nn.Module, insists: bool) -> None:
        self._model = model
        self._insists = insists
        training = [module for module in model.modules() if module.training]
        self._norms = [module for module in training if isinstance(module, _BatchNorm)]
        self._random = [module for module in training if _draws(module)]
        self._changed: dict[str, Tensor] | None = None
        if any(hasattr(module, "set_requires_gradient_sync") for module in model.modules()):
            raise ValueError(
                "accumulate: fully_shard has sharded the model, and its parameters come and go "
                "within each micro-batch, so that they cannot be compared and put back; leave "
                "accumulate out, or use DDP"
            )
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter._backward_hooks:
                raise ValueError(
                    f"accumulate: {name} has a hook on its gradient, which would be run for each "
                    f"micro-batch too; register it with register_post_accumulate_grad_hook"
                )
        if self._norms and rank() == 0:
            logger.warning(
                "negplug: BatchNorm in training mode normalises each micro-batch by itself, so the "
                "gradient with accumulate is not that of the whole batch (all else is); take "
                "GroupNorm or LayerNorm, or put BatchNorm in eval mode, where that matters"
            )

    def check_rows(
        self,
        step: Callable[[Any], Any],
        part: MicroBatch,
        state: ModelState,
        losses: Sequence[Loss],
    ) -> None:
        """Insist that what a step adds to its contrastive losses is a mean over rows.

        It is computed for a micro-batch and for its halves. That tells nothing where it is random.

        Args:
            step: Maps a batch to what the recipe returns.
            part: A micro-batch.
            state: Of the model; put back afterwards.
            losses: The contrastive losses, which return one meanwhile.

        Raises:
            ValueError: If it is another number.
        """
        halves = split(part.taken(), 2)
        if len(halves) < 2 or any(norm.running_mean is None for norm in self._norms):
            return
        device = next(self._model.parameters()).device
        random, calls = RngStates.now(device), 0
        values: list[float] = []
        for some in (part, part, *halves):
            taken: list[Any] = []

            def one(*call: Any, taken: list[Any] = taken) -> Tensor:
                taken.append(call)
                return torch.ones((), device=device)

            for module in (*self._norms, *self._random):
                module.training = False
            with rerouted(losses, one), torch.no_grad():
                value = loss_of(step(some.taken()))
            state.restore()
            calls = calls or len(taken)
            if value is None or len(taken) != calls:
                break  # refused in a moment, in its own words
            values.append(float(value))
        random.restore()
        if len(values) < 4:
            return
        whole, again, *parts = values
        mean = sum(v * h.rows for v, h in zip(parts, halves, strict=True)) / part.rows
        tolerance = 5e-3 if autocast_is_on(device) else 1e-3
        if whole == again and not abs(whole - mean) <= tolerance * max(abs(whole), abs(mean), 1e-3):
            raise ValueError(
                f"accumulate: beside its contrastive losses the step returns {whole - 1:.4g} more "
                f"for a micro-batch and {mean - 1:.4g} for the mean of its halves, so it is no "
                f"mean over rows and cannot be split; remove accumulate or that term"
            )

    def check_called(self, taken: Sequence[Any]) -> None:
        """Insist that the step calls a contrastive loss, of which micro-batches make a whole.

        Args:
            taken: The calls of a micro-batch.

        Raises:
            ValueError: If it has to and does not.
        """
        if self._insists and not taken:
            raise ValueError(
                "accumulated: the step calls none of the contrastive losses that were given as "
                "loss=…, so each micro-batch would be a batch of its own; give those that it calls"
            )

    def check_state(self, state: ModelState) -> None:
        """Insist that two micro-batches have changed the model in the same way, one after another.

        Args:
            state: Of the model before them; put back in between.

        Raises:
            ValueError: If they have not.
        """
        before, self._changed = self._changed, state.changed()
        if before is not None and (names := dependent(before, self._changed)):
            raise ValueError(
                f"accumulate: the step writes to {', '.join(names[:3])} what depends on the rows "
                f"of its batch, so micro-batches cannot stand for the whole; remove accumulate, or "
                f"write it in a method dequeue_and_enqueue(rows), which is called once for all"
            )

    def check_leaves(self, loss: Tensor, known: Sequence[Tensor]) -> None:
        """Insist that a loss trains nothing but the model.

        Args:
            loss: Of a micro-batch.
            known: The parameters of the model, and what stands for its losses.

        Raises:
            ValueError: If it does, for those gradients would be lost.
        """
        ids = {id(tensor) for tensor in known}
        for parameter in parameters_of(loss):
            if id(parameter) not in ids:
                raise ValueError(
                    f"accumulate: the loss trains a parameter of the shape "
                    f"{list(parameter.shape)} that is not in the model; put all that trains into "
                    f"one module"
                )


def _draws(module: nn.Module) -> bool:
    known = isinstance(module, (_DropoutNd, nn.MultiheadAttention))
    return known or type(module).__name__ in _DROPPING
