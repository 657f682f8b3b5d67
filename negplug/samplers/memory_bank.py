"""``memory_bank(momentum=m)``: one slot per sample of the data set, an exponential moving average.

Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination"
(2018, arXiv:1805.01978) and Misra & van der Maaten, "PIRL" (2020, arXiv:1912.01991, section 3.1).
With k̄_i the mean direction of sample i's keys in a training step,

    v_i ← k̄_i at the first visit,      v_i ← (m v_i + (1 − m) k̄_i) / ‖·‖ afterwards.

Slots are made at the first visit, so only visited samples serve, and the pool is the written part
of the bank itself, in the order of first visits. The keys of a step are averaged in a fixed order,
so that ranks that gather hold the same bank to the last bit.

How many samples of a step are new cannot be known without waiting for a GPU. There the pool goes up
to the last slot that may have been written, with a mask, and slots are found by sorting the indexes
that they hold. Only a bank that has run out of room, and was not told the number of samples, waits.
Where more samples come than the data set says that it has, there or on a CPU, the next step raises.

A slot is up to an epoch old. Without a momentum encoder, slots of the first epochs are far from
what the encoder would make of the samples now; ``schedule(in_batch(), memory_bank(),
from_epochs=(0, 10))`` brings the bank in later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_integer, check_number
from negplug.contract.negatives import Negatives
from negplug.contract.sample_table import beyond, most_samples, too_many, unnamed
from negplug.contract.sampler import NegativeSampler, Sampled
from negplug.kernels.averages import average_
from negplug.kernels.distributed import world_size
from negplug.kernels.late import check, free_to_read, look, read
from negplug.kernels.unit import unit_rows
from negplug.samplers.common.remembering import Arriving, RememberingSampler
from negplug.samplers.uniform import Uniform

_UNVISITED = -1


class MemoryBank(RememberingSampler):
    """All visited slots of a bank with one slot per data set index.

    Args:
        momentum: m in [0, 1): the share of the old value that an update keeps.
        size: Number of samples; None lets the bank grow with the indexes, up to the number that the
            data set says, if it does.
        gather: Whether the keys of every rank enter, so that all ranks hold the same bank.

    Raises:
        TypeError, ValueError: If an argument cannot be used.
    """

    slots: Tensor
    num_views = 1

    def __init__(self, momentum: float = 0.5, size: int | None = None, gather: bool = True) -> None:
        super().__init__(gather)
        self.momentum = check_number("memory_bank", "momentum", momentum, 0.0, 1.0)
        self.size = None if size is None else check_integer("memory_bank", "size", size, 1)
        self.add_state("slots", _UNVISITED, (None,), self.ranks)
        self.expression = f"memory_bank(momentum={momentum}, size={size}, gather={gather})"
        # Of the data set, once a run has said it.
        self._samples: int | None = None
        # Whether the count is that of the slots that are written, not the most that it may be.
        self._counted = True
        # The count of the run that was loaded, which did not wait either.
        self._reach = 0
        # How many slots the last step lacked, at most 0 if none; None where none can be lacking.
        self._lacking: Tensor | None = None

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """Number of samples, if given."""
        return self.size

    def sample(self, batch: ContrastiveBatch) -> Sampled:
        """Return the visited slots.

        Raises:
            ValueError: If a training sample's data set index is unknown or beyond the bank, or
                more samples have come than the data set says that it has.
        """
        if batch.training:
            self._check_lacking(wait=False)
            self._samples = batch.context.dataset.size
        if self._reach > self.count and not free_to_read(batch.anchors.embeddings.device):
            # As wide a pool as without the interruption: sums of another width round otherwise.
            self.count, self._counted, self._reach = self._reach, False, 0
        sampled = self._written(super().sample(batch), len(batch.anchors))
        if batch.training:
            why = batch.unindexed or "the loss was called without indexes="
            most = self.size
            if most is None:
                # Indexes may be those of a data set that this one is a part of.
                most = max(most_samples(None), batch.context.dataset.size or 0)
            indexes = sampled.seen.names[1]
            self._check(indexes, most, why if batch.keys.indexes is None else "")
        return sampled

    def _written(self, sampled: Sampled, anchors: int) -> Sampled:
        """Mask slots that may have been written, but were not."""
        if not self.count or (self._counted and free_to_read(self.names.device)):
            # On a GPU there is a mask after a checkpoint too, whose slots are counted: programs
            # need not compute the same to the last bit with a mask and without.
            return sampled
        assert isinstance(sampled.negatives, Negatives)
        written = self.names[1, : self.count] != UNKNOWN
        # One row for all anchors, which a single one too shows by its stride.
        mask = written.expand(max(anchors, 2), -1)[:anchors]
        return sampled._replace(negatives=sampled.negatives.masked(mask))

    def _check(self, indexes: Tensor, most: int, unindexed: str) -> None:
        # All ranks' if they were gathered: then every rank raises, and none is left waiting.
        def error() -> ValueError:
            needs = "memory_bank: needs the data set index of every sample, but"
            if unindexed:
                return ValueError(f"{needs} {unindexed}")
            lowest, highest = map(int, indexes.aminmax())
            if lowest < 0:
                return unnamed("memory_bank", lowest)
            if self.size is None:
                return beyond("memory_bank", highest, None)
            return ValueError(
                f"memory_bank: the data set index {highest} is beyond size={self.size}; "
                f"give the size of the whole data set"
            )

        if unindexed and world_size() == 1:
            raise error()
        # Of all but 0, 1, …, most − 1 the quotient is another than 0.
        failed = indexes.div(most, rounding_mode="floor").any()
        check("memory_bank: data set indexes", failed, error)

    def _check_lacking(self, wait: bool) -> None:
        """Raise ``ValueError``, in some later call unless it waits, if there are too few slots."""
        lacking, samples, self._lacking = self._lacking, self._samples, None

        def refuse() -> None:
            raise too_many("memory_bank", samples, int(lacking or 0))

        if lacking is not None:
            look("memory_bank: slots", lacking, refuse, lambda found: found > 0, wait)

    def update(self, seen: Arriving) -> None:
        """Average the step's keys into their slots."""
        keys, names = seen
        most = self._most(len(keys))
        if not free_to_read(keys.device):
            capped = most < self.count + len(keys)
            self._make_room(most, keys)
            needed = average_(self.rows, self.names, keys, names, self.momentum, UNKNOWN)
            if capped:
                self._lack(needed - most)
            return
        # By numpy, whose operations of a few integers take a tenth of the time of torch's.
        arriving = names[1].numpy()
        order = arriving.argsort(kind="stable")
        indexes, starts = np.unique(arriving[order], return_index=True)
        bags = torch.from_numpy(order), torch.from_numpy(starts)
        mean = unit_rows(embedding_bag(bags[0], keys, bags[1], mode="mean"))
        slots = torch.from_numpy(self._slots_of(indexes, keys))
        # A new slot is zero, so that its average is the direction of the mean alone.
        old = self.rows.index_select(0, slots).to(mean)
        average = unit_rows(torch.lerp(mean, old, self.momentum))
        self.rows.index_copy_(0, slots, average.to(self.rows))
        self.names.index_copy_(1, slots, names.index_select(1, bags[0][bags[1]]))
        if self.count > most:
            self._lack(torch.tensor(self.count - most, device=keys.device))

    def _lack(self, slots: Tensor) -> None:
        """Note that slots ``[]`` were lacking, in one of the updates of a step."""
        before = slots if self._lacking is None else self._lacking
        self._lacking = torch.maximum(before, slots)

    def _slots_of(self, indexes: Any, keys: Tensor) -> Any:
        """Return the slot of each index ``[n]`` of an array, made if need be; they ascend."""
        self._recount()
        beyond = int(indexes[-1]) + 1 - len(self.slots)
        if beyond > 0:
            more = self.slots.new_full((max(beyond, len(self.slots)),), _UNVISITED)
            self.slots = torch.cat([self.slots, more])
        slots = self.slots.numpy()[indexes]
        (fresh,) = (slots == _UNVISITED).nonzero()
        made = len(fresh)
        if self.count + made > len(self.rows):
            self.reserve(self.size or 2 * (self.count + made), keys)
        slots[fresh] = self.count + np.arange(made)
        self.slots.numpy()[indexes] = slots
        self.count += made
        return slots

    def _most(self, keys: int) -> int:
        """Return how many slots there may be after a step of so many keys."""
        samples, most = self.size or self._samples, self.count + keys
        return most if samples is None else max(min(most, samples), self.count)

    def _make_room(self, most: int, keys: Tensor) -> None:
        """Raise the count to the most that a step may leave, and make room for so many slots."""
        samples = self.size or self._samples
        if most > len(self.rows):
            if samples is None and self.count:
                # Rarely: a sample that comes again takes no slot, and much room is made.
                most = (read((self.names[1] != UNKNOWN).sum()) or self.count) + len(keys)
            if 2 * most > len(self.rows):
                self.reserve(samples or 4 * most, keys)
        self.count, self._counted = most, False

    def _recount(self) -> None:
        """Count and list the written slots, after steps that did not wait."""
        if not self._counted:
            self.count = int((self.names[1] != UNKNOWN).sum())
            indexes = self.names[1, : self.count]
            self.slots = indexes.new_full((int(indexes.max()) + 1,), _UNVISITED)
            self.slots[indexes] = torch.arange(self.count, device=indexes.device)
            self._counted = True

    def get_extra_state(self) -> dict[str, Any]:
        """Return the settings and a copy of the bank; waits for the device, and changes nothing.

        Raises:
            ValueError: If more samples have come than the data set says that it has.
        """
        self._check_lacking(wait=True)
        before = self.count, self._counted
        self._recount()
        state = super().get_extra_state() | {"reach": max(before[0], self._reach)}
        self.count, self._counted = before
        return state

    def check_state(self, state: Any) -> None:
        """Raise ``ValueError`` as other memories do, or if its pool is wider than its rows."""
        super().check_state(state)
        reach, most = state.get("reach", 0), len(state["values"]["rows"])
        if type(reach) is not int or not 0 <= reach <= most:
            raise ValueError(
                f"{self}: the saved reach {reach!r} is not within its {most} rows; the "
                f"file is damaged"
            )

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the bank; the saved count is that of the written slots."""
        super().set_extra_state(state)
        self._counted, self._reach, self._lacking = True, state.get("reach", 0), None

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
