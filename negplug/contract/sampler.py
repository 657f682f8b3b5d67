"""The base class of samplers: which rows serve as negatives, how many, with what weight."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.contract.part import Part
from negplug.contract.provenance import blaming
from negplug.contract.shapes import check_negatives
from negplug.contract.sources import check_draws_kept, several_pools
from negplug.kernels.random.numbers import RandomNumbers

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite


class Sampled(NamedTuple):
    """Negatives, and what a sampler wants to remember of the call.

    Attributes:
        negatives: Those of one pool, or of several in one denominator.
        seen: What ``update`` gets once the step's backward pass is over, detached; None if there
            is nothing to remember. ``metrics`` gets it too.
    """

    negatives: Negatives | tuple[Negatives, ...]
    seen: Any = None


class NegativeSampler(Part, abc.ABC):
    """Chooses the negatives of a batch.

    A subclass implements :meth:`sample`. A sampler that remembers something across steps returns
    :class:`Sampled`, implements :meth:`update` and declares its memory by
    :class:`negplug.contract.state.Stateful`. Samplers compose: a sampler that chooses among another
    one's negatives takes it as its argument ``source``; ``self.source(batch)`` is a tuple of them.

    Attributes:
        stream: Its number inside the expression, which keys its random draws.
        remembers: Whether it offers rows of past steps, and so starts with none.
        per_rank: Whether its state differs between ranks, so that each rank's is saved.
        most: The most rows that it can ever offer an anchor; None if the batch decides.
        turns: How many samplers take turns in it as training goes on.
        wants_epoch: Whether the number of the epoch decides whose turn it is.
        attracts: Whether it may return positives too, see :class:`.Negatives`.
        streams: Whether it may return keys that go around a ring of ranks. A sampler that reads
            such a source returns them unchanged; see :mod:`negplug.contract.streaming`.
    """

    stream: int = 0
    remembers: bool = False
    per_rank: bool = False
    most: int | None = None
    turns: int = 1
    wants_epoch: bool = False
    attracts: bool = False
    streams: bool = False

    @abc.abstractmethod
    def sample(self, batch: ContrastiveBatch) -> Negatives | tuple[Negatives, ...] | Sampled:
        """Return the negatives of ``batch``. Must not change what :meth:`update` changes."""

    def metrics(
        self, batch: ContrastiveBatch, negatives: tuple[Negatives, ...], seen: Any
    ) -> dict[str, float]:
        """Return what is worth logging of a call that was sampled; by default nothing.

        Args:
            batch: The batch.
            negatives: Those of :meth:`sample`, one entry for each pool.
            seen: What :meth:`sample` returned beside them.
        """
        return {}

    def fit_host(self, site: LossSite | None) -> None:
        """Take from the host what the user did not give, such as a queue's size.

        Args:
            site: The loss to treat; None if there is no host.

        Raises:
            ValueError: If neither the user nor the host gives something that is needed.
        """

    def forward(self, batch: ContrastiveBatch) -> tuple[Negatives, ...]:
        """Sample, check the result and, in training, keep what :meth:`update` will get.

        If a second sampler reads this one for the same batch, it gets the same negatives, and they
        are remembered once.
        """
        memo = batch.context.memo
        if self in memo:
            known: tuple[Negatives, ...] = memo[self][0]
            return known
        with blaming(self.provider, "sample()"):
            try:
                negatives, seen = _unpacked(self.sample(batch))
            except ValueError as error:
                if (explained := several_pools(self, memo, error)) is not None:
                    raise explained from error
                raise
            check_draws_kept(self, memo, negatives)
            check_negatives(negatives, batch.anchors)
        if batch.training and self.updates and seen is not None:
            self.hold(seen)
        memo[self] = negatives, seen
        return negatives

    def measured(self, batch: ContrastiveBatch) -> dict[str, float]:
        """Return the metrics of every sampler inside that was asked for this batch."""
        found: dict[str, float] = {}
        for sampler in self.all_samplers():
            if sampler in batch.context.memo:
                found |= sampler.metrics(batch, *batch.context.memo[sampler])
        return found

    def all_samplers(self) -> Iterator[NegativeSampler]:
        """Yield this sampler and every sampler inside it, each once."""
        for part in self.parts_inside():
            if isinstance(part, NegativeSampler):
                yield part

    def random(self, batch: ContrastiveBatch) -> RandomNumbers:
        """Return this sampler's own random numbers for this call, on the batch's device."""
        return batch.context.draws.random(self.stream, batch.anchors.embeddings.device)


def _unpacked(sampled: object) -> tuple[tuple[Negatives, ...], Any]:
    """Return what ``sample`` gave as a tuple of negatives and what is to be remembered.

    Raises:
        TypeError: If it gave anything else.
    """
    given, seen = sampled if isinstance(sampled, Sampled) else (sampled, None)
    pools = given if isinstance(given, tuple) else (given,)
    for part in pools:
        if not isinstance(part, Negatives):
            raise TypeError(f"sample() must return Negatives, got {type(part).__name__}")
    return pools, seen
