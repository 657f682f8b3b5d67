"""``Treatment``: what is asked of a loss, converted and checked once."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from negplug.contract.adapter import LossSite
from negplug.contract.inputs import check_temperature
from negplug.contract.objective import Objective
from negplug.contract.sampler import NegativeSampler
from negplug.hosts.treated_loss import TreatedLoss
from negplug.plugins.build import as_objective, as_sampler


@dataclass(frozen=True)
class Treatment:
    """A sampler, and what else replaces the host's own.

    Attributes:
        sampler: Chooses the negatives.
        objective: The form of the loss; None inherits the host's.
        temperature: τ; None inherits the host's.
    """

    sampler: NegativeSampler
    objective: Objective | None = None
    temperature: float | None = None

    @classmethod
    def of(
        cls,
        sampler: NegativeSampler | str,
        objective: Objective | str | None = None,
        temperature: float | None = None,
    ) -> Treatment:
        """Return the treatment that objects or expressions describe.

        Raises:
            ValueError, TypeError: If an argument cannot be used.
        """
        return cls(
            as_sampler(sampler),
            None if objective is None else as_objective(objective),
            None if temperature is None else check_temperature(temperature),
        )

    @property
    def wants_indexes(self) -> bool:
        """Whether a part of it uses the data set index of each sample."""
        parts = (*self.sampler.all_samplers(), self.objective)
        return any(part is not None and part.wants_indexes for part in parts)

    def at(self, site: LossSite) -> TreatedLoss:
        """Return what takes the place of one loss, with state of its own."""
        sampler, objective = copy.deepcopy(self.sampler), copy.deepcopy(self.objective)
        return TreatedLoss(site, sampler, objective, self.temperature)
