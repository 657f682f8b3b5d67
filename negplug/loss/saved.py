"""What a checkpoint holds of a loss, and how it is restored: all of it or nothing."""

from __future__ import annotations

import abc
from typing import Any

from torch import nn

from negplug.contract.inputs import check_integer
from negplug.contract.state import FORMAT
from negplug.kernels import late
from negplug.kernels.torch_private import backward_runs
from negplug.loss.agreement import Agreement
from negplug.loss.calls import CallState, check_saved
from negplug.loss.graph_steps import GraphSteps
from negplug.loss.steps import Steps


class SavingLoss(nn.Module, abc.ABC):
    """The side of :class:`negplug.loss.contrastive.ContrastiveLoss` that saves and restores.

    Attributes:
        further: State of the second and further calls of a step.
        graphs: The steps that graphs make.
        ranks: What the ranks have agreed on.
        epoch: Number of the epoch; None if nobody has said it.
    """

    further: nn.ModuleList
    graphs: GraphSteps
    ranks: Agreement
    epoch: int | None = None
    _own: list[CallState]
    _seed: int
    _steps: Steps

    def check_before_loading(self) -> None:
        """Check what is loaded before anything is, also as part of a model."""
        self.register_load_state_dict_pre_hook(_prepare_to_load)  # type: ignore[no-untyped-call]

    @abc.abstractmethod
    def end_step(self, told: bool = True) -> None:
        """Close the training step."""

    def _end_reached(self) -> None:
        if self._steps.reached:
            self.end_step(told=False)

    @abc.abstractmethod
    def _add_call(self) -> None:
        """Make room for the state of a further call."""

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the steps to come are of, for samplers that switch by it.

        A Trainer's callback does it; a plain loop calls it on every rank as an epoch begins.

        Args:
            epoch: Its number, from 0.

        Raises:
            TypeError, ValueError: If it is no integer from 0 on.
        """
        self.epoch = check_integer("set_epoch", "epoch", epoch, 0)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return all sampler state, what they held back of calls with a backward pass included.

        Raises:
            ValueError: If a batch before could not be used, and a GPU has only said so now.
        """
        late.settle()
        if not backward_runs():
            self._end_reached()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Restore what :meth:`state_dict` returned; everything or, if that fails, nothing."""
        before = self.state_dict()
        try:
            return super().load_state_dict(*args, **kwargs)
        except BaseException as error:
            super().load_state_dict(before)
            if isinstance(error, RuntimeError):  # of torch, about missing and unexpected keys
                raise ValueError(
                    f"{error}; the file is damaged, or of another sampler, objective or temperature"
                ) from error
            raise

    def get_extra_state(self) -> dict[str, int]:
        """Return the counters that key the random draws, and the calls with state of their own."""
        self.graphs.lead(self._steps)
        steps = {"step": self._steps.number, "call": self._steps.following}
        said = {} if self.epoch is None else {"epoch": self.epoch}
        return {"format": FORMAT, "seed": self._seed, **steps, "further": len(self.further)} | said

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the counters, and make room for the state of further calls."""
        self._seed, further, self.epoch = state["seed"], state["further"], state.get("epoch")
        self._steps = Steps(state["step"], 1 + further if further else None, state["call"])
        self.graphs.restart(state["step"])
        del self.further[further:]
        while len(self.further) < further:
            self._add_call()


def _prepare_to_load(
    loss: nn.Module, state: dict[str, Any], prefix: str, _: Any, strict: bool, *__: Any
) -> None:
    """Check the saved state of samplers and objectives before anything is loaded.

    A hook, so that it also runs where the loss is part of a model whose state is loaded. What is
    held back belongs to the state that is replaced, and is dropped.
    """
    assert isinstance(loss, SavingLoss)
    check_saved(loss._own[0], state, prefix, strict)
    loss.ranks.forget()
    loss._steps.close(told=True)
