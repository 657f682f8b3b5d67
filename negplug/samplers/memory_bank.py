"""``memory_bank(momentum=m)``: one slot per sample of the data set, an exponential moving average.

Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination"
(2018, arXiv:1805.01978) and Misra & van der Maaten, "PIRL" (2020, arXiv:1912.01991, section 3.1).
With k̄_i the mean direction of sample i's keys in a training step,

    v_i ← k̄_i at the first visit,      v_i ← (m v_i + (1 − m) k̄_i) / ‖·‖ afterwards.

Slots are made at the first visit, so only visited samples serve, and the pool is the written part
of the bank itself, in the order of first visits. The keys of a step are averaged in a fixed order,
so that ranks that gather hold the same bank to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer, check_number
from negplug.contract.sample_table import beyond, most_samples
from negplug.contract.sampler import NegativeSampler, Sampled
from negplug.kernels import late
from negplug.kernels.unit import unit_rows
from negplug.samplers.common.remembering import Arriving, RememberingSampler
from negplug.samplers.uniform import Uniform

_UNVISITED = -1


class MemoryBank(RememberingSampler):
    """All visited slots of a bank with one slot per data set index.

    Args:
        momentum: m in [0, 1): the share of the old value that an update keeps.
        size: Number of samples in the data set; None lets the bank grow with the indexes.
        gather: Whether the keys of every rank enter, so that all ranks hold the same bank.

    Raises:
        TypeError, ValueError: If an argument cannot be used.
    """

    slots: Tensor

    def __init__(self, momentum: float = 0.5, size: int | None = None, gather: bool = True) -> None:
        super().__init__(gather)
        self.momentum = check_number("memory_bank", "momentum", momentum, 0.0, 1.0)
        self.size = None if size is None else check_integer("memory_bank", "size", size, 1)
        self.add_state("slots", _UNVISITED, (None,), self.ranks)
        self.expression = f"memory_bank(momentum={momentum}, size={size}, gather={gather})"

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """Number of samples, if given."""
        return self.size

    def sample(self, batch: ContrastiveBatch) -> Sampled:
        """Return the visited slots.

        Raises:
            ValueError: If a training sample's data set index is unknown or beyond the bank.
        """
        sampled = super().sample(batch)
        if batch.training:
            why = batch.unindexed or "the loss was called without indexes="
            self._check(sampled.seen.names[1], why if batch.keys.indexes is None else "")
            if self.size is None:
                size, highest = batch.context.dataset.size, sampled.seen.names[1].max()
                late.check(
                    "memory_bank: greatest index",
                    highest >= most_samples(size),
                    lambda: beyond("memory_bank", int(highest), size),
                )
        return sampled

    def _check(self, indexes: Tensor, unindexed: str) -> None:
        # All ranks' if they were gathered: then every rank raises, and none is left waiting.
        lowest, highest = (int(index) for index in indexes.aminmax())
        if lowest < 0:
            raise ValueError(
                f"memory_bank: needs the data set index of every sample, but "
                f"{unindexed or f'one is {lowest}'}"
            )
        if self.size is not None and highest >= self.size:
            raise ValueError(
                f"memory_bank: the data set index {highest} is beyond size={self.size}; give the "
                f"size of the whole data set"
            )

    def update(self, seen: Arriving) -> None:
        """Average the step's keys into their slots."""
        keys, names = seen
        ordered, order = torch.sort(names[1], stable=True)
        indexes, number = torch.unique_consecutive(ordered, return_counts=True)
        starts = number.cumsum(0) - number
        mean = unit_rows(embedding_bag(order, keys, starts, mode="mean"))
        slots = self._slots_of(indexes, keys)
        # A new slot is zero, so that its average is the direction of the mean alone.
        old = self.rows[slots].to(mean)
        self.rows[slots] = unit_rows(torch.lerp(mean, old, self.momentum)).to(self.rows)
        self.names[:, slots] = names[:, order[starts]]

    def _slots_of(self, indexes: Tensor, keys: Tensor) -> Tensor:
        """Return the slot of each index, made if need be."""
        beyond = int(indexes.max()) + 1 - len(self.slots)
        if beyond > 0:
            more = indexes.new_full((max(beyond, len(self.slots)),), _UNVISITED)
            self.slots = torch.cat([self.slots.to(indexes.device), more])
        fresh = self.slots[indexes] == _UNVISITED
        made = int(fresh.sum())
        if self.count + made > len(self.rows):
            self.reserve(self.size or 2 * (self.count + made), keys)
        first = self.count
        self.slots[indexes[fresh]] = torch.arange(first, first + made, device=indexes.device)
        self.count += made
        return self.slots[indexes]

    def settings(self) -> dict[str, Any]:
        """Return size and momentum."""
        return {"size": self.size, "momentum": self.momentum}

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless the saved slots and rows name each other."""
        super().check_values(values)
        indexes, slots = values["names"][1, : values["count"]], values["slots"]
        visited = (slots != _UNVISITED).nonzero()[:, 0]
        there = torch.arange(len(indexes), device=indexes.device)
        inside = not len(indexes) or 0 <= int(indexes.min()) <= int(indexes.max()) < len(slots)
        if not (inside and len(visited) == len(indexes) and slots[indexes].equal(there)):
            raise ValueError(
                f"{self}: the saved slots and rows do not fit together; the file is damaged"
            )


def memory_bank(
    momentum: float = 0.5,
    num_negatives: int | None = None,
    size: int | None = None,
    gather: bool = True,
) -> NegativeSampler:
    """Return a memory bank, or M uniform draws per anchor from one.

    Args:
        momentum: As in :class:`MemoryBank`.
        num_negatives: M; None uses all visited slots.
        size: As in :class:`MemoryBank`.
        gather: As in :class:`MemoryBank`.
    """
    bank = MemoryBank(momentum, size, gather)
    return bank if num_negatives is None else Uniform(num_negatives, source=bank)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``memory_bank``."""
    yield SamplerSpec(
        "memory_bank",
        memory_bank,
        "one slot per data set index, exponential moving average",
        "Wu et al. 2018, arXiv:1805.01978",
    )
