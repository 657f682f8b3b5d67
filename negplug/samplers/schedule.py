"""``schedule(sampler, sampler, …, from_epochs=(0, 10))``: samplers that take turns.

Source: curriculum learning (Bengio et al. 2009, ICML, https://doi.org/10.1145/1553374.1553380),
with the samplers in the order of their difficulty. With the starts 0 = e_0 < e_1 < …, the
negatives at epoch (or training step) e are those of

    sampler k(e) = max { k : e_k ≤ e }.

- ``schedule(in_batch(), hard(num_negatives=16), from_epochs=(0, 10))``: negatives become hard once
  the embeddings mean something.
- ``schedule(in_batch(), queue(size=4096), from_steps=(0, 2000))``: keys of past steps come in once
  the encoder moves slowly. Without a momentum encoder a queue or a bank holds keys of an encoder
  that is no more, and early in training those are far off; Wang et al. 2020 (arXiv:1912.06798,
  section 3.2 and algorithm 1) measure this drift, and bring in their memory after a warm-up.

What remembers (queue, memory bank, chains) takes in every step from the first one on, so that it is
warm when its turn comes; once no sampler reads it any more, it takes in nothing. Equal memories
are one, as in ``hierarchical``. Steps are those of the loss, counted and saved as its draws are;
epochs are the Trainer's, or those that a plain loop says with ``set_epoch``. An evaluation asks
whose turn it is. In the first training step every sampler is rehearsed, so that one that
cannot serve fails then, and not when its turn comes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer
from negplug.contract.sampler import NegativeSampler, Sampled
from negplug.contract.state import Stateful
from negplug.samplers.common.remembering import RememberingSampler
from negplug.samplers.common.sharing import fit_again, share_memories

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite


class Schedule(Stateful, NegativeSampler):
    """Asks one sampler after another as training goes on.

    Args:
        *samplers: Two samplers or more. A memory in a later one that equals one of an earlier one
            is replaced by it.
        from_steps: The training step from which on each of them is asked, in ascending order; the
            first is 0.
        from_epochs: The same in epochs, in place of ``from_steps``.

    Attributes:
        turn: Number of the sampler that the latest training step has asked.

    Raises:
        TypeError: If a sampler is none, or a start no integer.
        ValueError: If there are fewer than two samplers, or the starts do not fit them.
    """

    turn: int

    def __init__(
        self,
        *samplers: NegativeSampler,
        from_steps: Sequence[int] | None = None,
        from_epochs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        for number, sampler in enumerate(samplers, start=1):
            if not isinstance(sampler, NegativeSampler):
                raise TypeError(f"schedule: sampler {number} must be a sampler, got {sampler!r}")
        if len(samplers) < 2:
            raise ValueError(
                f"schedule: needs two samplers or more, got {len(samplers)}; write "
                f"schedule(in_batch(), queue(size=1024), from_epochs=(0, 10)), say"
            )
        if (from_steps is None) == (from_epochs is None):
            raise ValueError(
                "schedule: give from_steps=(0, 1000), say, or from_epochs=(0, 10), and not "
                + ("neither" if from_steps is None else "both")
            )
        self.wants_epoch = from_epochs is not None
        name, given = "from_steps", from_steps
        if from_epochs is not None:
            name, given = "from_epochs", from_epochs
        self.starts = _check_starts(name, given, len(samplers))
        self._name = name
        self.turns = len(samplers)
        self.streams = any(sampler.streams for sampler in samplers)
        self.samplers = nn.ModuleList(samplers)
        share_memories(self)
        first, *others = ({*sampler.all_samplers()} for sampler in self._each())
        for part in set().union(*others) - first:
            if isinstance(part, RememberingSampler):
                part.later = True
        self.add_state("turn", default=0)

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """The most that any of them can offer; None if the batch decides for one."""
        known = [sampler.most for sampler in self._each() if sampler.most is not None]
        return max(known) if len(known) == self.turns else None

    def fit_host(self, site: LossSite | None) -> None:
        """Let all inside look again: a later sampler was fitted before the memory it shares."""
        fit_again(self, site)

    def sample(self, batch: ContrastiveBatch) -> Sampled:
        """Return the negatives of the sampler whose turn it is; let memories to come look on.

        Raises:
            ValueError: If the epoch is unknown in training, or goes back to a sampler whose
                memory has missed what came since.
        """
        turn, each = self._turn_at(batch), self._each()
        if batch.training and batch.context.turn is None:
            self._check_return(turn, each)
            for sampler in each[turn + 1 :]:
                for part in sampler.all_samplers():
                    if part.updates:
                        part(batch)
        return Sampled(each[turn](batch), turn)

    def _turn_at(self, batch: ContrastiveBatch) -> int:
        context = batch.context
        if context.turn is not None:
            return min(context.turn, self.turns - 1)
        if not self.wants_epoch:
            return bisect_right(self.starts, int(context.draws.step)) - 1
        if context.epoch is not None:
            return bisect_right(self.starts, context.epoch) - 1
        if batch.training:
            raise ValueError(
                "schedule: from_epochs needs the number of the epoch, which a plain loop has to "
                "say: call set_epoch(epoch) of the loss, or of what inject returned, as an epoch "
                "begins; or give from_steps"
            )
        return 0

    def _check_return(self, turn: int, each: list[NegativeSampler]) -> None:
        """Raise ``ValueError`` if a memory that was not told of the latest steps is to serve."""
        if turn >= self.turn:
            return
        told = [part for later in each[self.turn :] for part in later.all_samplers()]
        for earlier in each[turn : self.turn]:
            for part in earlier.all_samplers():
                if part.updates and part not in told:
                    raise ValueError(
                        f"schedule: the epoch went back, from sampler {self.turn + 1} to "
                        f"{turn + 1} of {self}, but {part} has taken in nothing since its turn "
                        f"was over; start with a new loss or callback, without the old state"
                    )

    def update(self, seen: int) -> None:
        """Remember whose turn it was."""
        self.turn = seen

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless the saved turn is that of a sampler."""
        if values["turn"] >= self.turns:
            raise ValueError(
                f"{self}: the saved turn is {values['turn']} of {self.turns} samplers; the file is "
                f"damaged"
            )

    def settings(self) -> dict[str, Any]:
        """Return the starts."""
        return {self._name: list(self.starts)}

    def __str__(self) -> str:
        """Return the expression, or the samplers if it was made without one."""
        inside = ", ".join(map(str, self._each()))
        return self.expression or f"schedule({inside}, {self._name}={self.starts})"

    def _each(self) -> list[NegativeSampler]:
        return [cast(NegativeSampler, sampler) for sampler in self.samplers]


def _check_starts(name: str, given: object, number: int) -> tuple[int, ...]:
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"schedule: {name} must be integers such as (0, 10), got {given!r}")
    starts = tuple(check_integer("schedule", name, start, 0) for start in given)
    if len(starts) != number:
        raise ValueError(
            f"schedule: {name}={starts} has {len(starts)} starts for {number} samplers; give one "
            f"for each"
        )
    if starts[0] or any(one >= other for one, other in pairwise(starts)):
        raise ValueError(
            f"schedule: {name}={starts} must begin with 0 and ascend; the first sampler serves "
            f"from the start"
        )
    return starts


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``schedule``."""
    yield SamplerSpec(
        "schedule",
        Schedule,
        "samplers that take turns, by epochs or steps",
        "Bengio et al. 2009, doi:10.1145/1553374.1553380",
    )
