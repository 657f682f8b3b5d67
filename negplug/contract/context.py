"""What surrounds a loss call: the counters of its draws, its temperature, the data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from negplug.contract.dataset import DatasetAccess
from negplug.contract.draws import Draws

_FIRST = Draws()
_UNKNOWN = DatasetAccess()


@dataclass(frozen=True, eq=False)
class StepContext:
    """The surroundings of one loss call. The loss makes it; samplers ask the batch.

    Attributes:
        draws: Counters that key random draws.
        temperature: τ of the loss, for samplers that draw from its softmax.
        dataset: What the run can say of the data set that the indexes count.
        training: Whether a backward pass can follow, so that this call counts as training.
        epoch: Number of the epoch, for schedules; None if nobody has said it.
        turn: Which of its samplers a schedule is to ask, whatever the step; None in a step proper.
        memo: What was computed for this very call: the gathered batch, each sampler's negatives.
        sharpness: τ₀/τ, ``[]``, where the temperature τ learns: an objective is given the number τ₀
            and anchors that carry the factor, see :mod:`negplug.loss.temperature`.
    """

    draws: Draws = _FIRST
    temperature: float = 1.0
    dataset: DatasetAccess = _UNKNOWN
    training: bool = False
    epoch: int | None = None
    turn: int | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    sharpness: Tensor | None = None

    def changed(
        self,
        draws: Draws | None = None,
        temperature: float | None = None,
        dataset: DatasetAccess | None = None,
        training: bool | None = None,
        epoch: int | None = None,
        turn: int | None = None,
    ) -> StepContext:
        """Return other surroundings, with an empty memo; None keeps what there is."""
        # In each call: replace() would take twice as long.
        return StepContext(
            self.draws if draws is None else draws,
            self.temperature if temperature is None else temperature,
            self.dataset if dataset is None else dataset,
            self.training if training is None else training,
            self.epoch if epoch is None else epoch,
            self.turn if turn is None else turn,
            sharpness=self.sharpness,
        )
