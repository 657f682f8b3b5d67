"""A rehearsal of samplers whose turn comes later, in the first step of a training.

What a full batch cannot supply, labels that nobody hands over, draws that the objective cannot use:
such errors belong in the first step, and not in the epoch that switches to the sampler.
"""

from __future__ import annotations

import torch

from negplug.contract.attraction import attracting, check_pulls
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.objective import Objective
from negplug.contract.provenance import blaming
from negplug.loss.calls import CallState


@torch.no_grad()
def rehearse(state: CallState, objective: Objective, batch: ContrastiveBatch, turns: int) -> None:
    """Compute the loss of a batch with the sampler of each later turn; nothing is remembered.

    Args:
        state: The state of the call, with its sampler.
        objective: The objective of the call.
        batch: Of the first training step.
        turns: The number of turns.
    """
    try:
        for turn in range(1, turns):
            then = batch.within(turn=turn)
            negatives = state.sampler(then)
            pulled = attracting(then, negatives)
            if pulled is not then:
                check_pulls(objective, state.sampler)
            with blaming(objective.provider, "the objective"):
                objective(pulled, negatives, then.temperature)
    finally:
        state.release()
