"""One step of some chains: where they come from, what they are proposed, where they went."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.kernels.chain import Moves, pick
from negplug.kernels.late import free_to_read
from negplug.kernels.states import Compared
from negplug.samplers.chains.ordered_pool import OrderedPool
from negplug.samplers.chains.placed_pool import PlacedPool


@dataclass(frozen=True, eq=False)
class ChainStep:
    """N chains before they move.

    Attributes:
        pool: The proposed samples, in the order of proposal, and their rows.
        logits: ``[R, N]``, of the rows.
        scores: ``[N, C]``, of the samples.
        state: ``[N]`` int64, the sample that each chain comes with; -1 = none yet.
        stored: ``[N]``, its logit at the last visit.
        place: ``[N]`` int64, its column if it is among the proposed samples, else -1.
        initial: ``[N]``, its present logit where that is known, otherwise the stored one.
    """

    pool: OrderedPool | PlacedPool
    logits: Tensor
    scores: Tensor
    state: Tensor
    stored: Tensor
    place: Tensor
    initial: Tensor

    @classmethod
    def of(
        cls,
        batch: ContrastiveBatch,
        indexes: Tensor,
        pool: OrderedPool | PlacedPool,
        chains: dict[str, Tensor],
    ) -> ChainStep:
        """Look up and compare what chains come with and are proposed.

        Args:
            batch: The batch.
            indexes: ``[N]`` int64, data set indexes of its anchors.
            pool: The proposed samples.
            chains: ``state`` and ``score`` of the last visit, ``[N]`` each.
        """
        state = chains["state"]
        own, place = pool.samples.find(torch.stack([indexes, state]))
        logits = pool.row_logits(batch)
        # A row of memory for each sample: chains go in lock step, and are neighbours there.
        scores = pool.scores(batch, own, logits).T
        stored = chains["score"].to(scores)
        initial = pick(scores, place, stored)
        return cls(pool, logits, scores, state, stored, place, initial)

    @property
    def away(self) -> Tensor:
        """``[N]`` bool, True where a chain's state lies outside the batch."""
        return (self.state != UNKNOWN) & (self.place < 0)

    @property
    def all_here(self) -> bool:
        """Whether it is known, without waiting for a device, that no state lies outside."""
        if not free_to_read(self.state.device):
            return False
        state, place = self.state.numpy(), self.place.numpy()
        return not ((state != UNKNOWN) & (place < 0)).any()

    def compared(self, states: Compared) -> ChainStep:
        """Return the step with the logits of states outside the batch from their embeddings."""
        return replace(self, initial=states.initial)

    def end(self, moves: Moves) -> tuple[Tensor, Tensor]:
        """Return the final states and their logits, ``[N]`` each."""
        samples = self.pool.samples.indexes.expand(len(self.state), -1)
        return (
            pick(samples, moves.last, self.state),
            pick(self.scores, moves.last, self.initial),
        )

    def spread(self, weights: Tensor) -> Tensor:
        """Return the log weights of rows, ``[R, N]``; their logits are used up.

        Args:
            weights: ``[N, C]``, of the samples.
        """
        return self.pool.spread(self.logits, self.scores.T, weights.T)

    def measures(self, moves: Moves) -> Measures:
        """Return what :meth:`Measures.means` needs."""
        return Measures(self.initial, self.stored, self.place, moves.outside, moves.accepted)


class Measures(NamedTuple):
    """What is worth logging of a step, of N chains, ``[N]`` each.

    Attributes:
        initial: Present logit of the state that a chain came with.
        stored: Its logit at the last visit.
        place: Its column if it is among the proposed samples, else -1.
        outside: Its weight in the draws if it is not.
        accepted: How much of what was proposed was accepted; NaN if nothing was.
    """

    initial: Tensor
    stored: Tensor
    place: Tensor
    outside: Tensor
    accepted: Tensor

    def means(self) -> dict[str, Tensor]:
        """Return acceptance rate, share of draws outside and staleness; NaN where unknown."""
        drawn = ~self.accepted.isnan() | (self.initial > -torch.inf)
        # Infinite where either logit is of no negative, NaN where both are.
        change = (self.initial - self.stored).abs()
        return {
            "acceptance": self.accepted.nanmean(),
            "outside": _mean(self.outside, drawn),
            "staleness": _mean(change, (self.place >= 0) & change.isfinite()),
        }


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of what is known, NaN if nothing is, without waiting for the device."""
    return values.masked_fill(~known, torch.nan).nanmean()
