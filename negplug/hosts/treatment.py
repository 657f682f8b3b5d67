"""``Treatment``: what is asked of a model's losses, converted and checked once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from negplug.contract.adapter import LossSite
from negplug.contract.inputs import check_temperature
from negplug.contract.objective import Objective
from negplug.contract.part import Part
from negplug.contract.sampler import NegativeSampler
from negplug.hosts.treated_loss import TreatedLoss
from negplug.plugins.build import as_objective, as_sampler

Samplers: TypeAlias = NegativeSampler | str | Mapping[str, NegativeSampler | str]
"""A sampler or an expression for every loss, or such for each loss by its name."""


@dataclass(frozen=True)
class Treatment:
    """Samplers, and what else replaces the host's own.

    Attributes:
        samplers: Choose the negatives, by the name of the loss; under None that of every loss.
        objective: The form of the loss; None inherits the host's.
        temperature: τ; None inherits the host's.
    """

    samplers: Mapping[str | None, NegativeSampler]
    objective: Objective | None = None
    temperature: float | None = None

    @classmethod
    def of(
        cls,
        sampler: Samplers,
        objective: Objective | str | None = None,
        temperature: float | None = None,
    ) -> Treatment:
        """Return the treatment that objects or expressions describe.

        Raises:
            ValueError, TypeError: If an argument cannot be used.
        """
        return cls(
            _by_name(sampler),
            None if objective is None else as_objective(objective),
            None if temperature is None else check_temperature(temperature),
        )

    @property
    def names(self) -> tuple[str, ...] | None:
        """The losses to treat, where each is given a sampler of its own; None if it is every."""
        return None if None in self.samplers else tuple(map(str, self.samplers))

    @property
    def wants_indexes(self) -> bool:
        """Whether a part of it uses the data set index of each sample."""
        return any(part.wants_indexes for part in self._parts())

    @property
    def wants_labels(self) -> bool:
        """Whether a part of it uses the label of each sample."""
        return any(part.wants_labels for part in self._parts())

    def _parts(self) -> Iterator[Part]:
        for sampler in self.samplers.values():
            yield from sampler.all_samplers()
        if self.objective is not None:
            yield self.objective

    def targets(self, target: str | None) -> tuple[str, ...] | None:
        """Return the names of the losses to treat; None if it is every loss.

        Args:
            target: The one loss that was named beside the samplers.

        Raises:
            ValueError: If the samplers name losses too.
        """
        if target is None:
            return self.names
        if self.names is not None:
            raise ValueError(
                f"target={target!r} and a mapping of samplers both say which losses to treat; "
                f"leave target out"
            )
        return (target,)

    def at(self, site: LossSite) -> TreatedLoss:
        """Return what takes the place of one loss, with state of its own."""
        sampler = self.samplers[site.name if self.names else None]
        objective = copy.deepcopy(self.objective)
        return TreatedLoss(site, copy.deepcopy(sampler), objective, self.temperature)

    def describe(self) -> str:
        """Return the expression; of several samplers those of all losses, in the order of names."""
        if self.names is None:
            return str(self.samplers[None])
        each = (f"{name}: {self.samplers[name]}" for name in sorted(self.names))
        return f"{{{', '.join(each)}}}"


def _by_name(sampler: Samplers) -> dict[str | None, NegativeSampler]:
    if not isinstance(sampler, Mapping):
        return {None: as_sampler(sampler)}
    if not sampler:
        raise ValueError('sampler is an empty mapping; name a loss, {"criterion": "in_batch()"}')
    for name in sampler:
        if not isinstance(name, str):
            raise TypeError(f"sampler must map names of losses to samplers, got the name {name!r}")
    return {name: as_sampler(given) for name, given in sampler.items()}
