"""Persistent chains over the samples of the data set: what ``emc2`` and ``isir`` have in common.

Each sample i and view has a chain whose state is a sample Z of the data set, aimed at

    p_i(c) ∝ mean over views u of c of exp(s(a_i, z_cu)/τ)

over all samples c but i's own and positives.

A step proposes the samples of the batch (of all ranks). The state may lie outside the batch; its
logit is then

- ``"recompute"``: that of the sample embedded anew, where the state survives the burn-in under the
  logit of its last visit; the chain is run again from the new one with the same draws;
- ``"cached"``: that of the sample's last embedding in a batch, at most two epochs old (V·d numbers
  per sample of the data set);
- ``"drop"``: that of its last visit. Draws of such states are left out, the weights of the others
  scaled up to one; an anchor whose draws are all outside has no negatives in this step.

``"recompute"`` alone is unbiased: ``"cached"`` has no gradient to the rows outside. In a batch of a
hundred those are few, and a step costs less, so it is the default (``benchmarks/studies/emc2``).

Weights are those of samples, spread over their views by the views' own softmax (Rao–Blackwell).
States, and the logits of their last visit, are the same on all ranks; the draws are keyed by the
rank, so they are those of a single process only if given the same random numbers.

In an evaluation, whose samples may be of another data set, there are no chains: the weights are
what one would converge to over this batch alone, the softmax over its negatives.
"""

from __future__ import annotations

import abc
from typing import Any, Literal

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.inputs import check_integer, check_room
from negplug.contract.negatives import Negatives
from negplug.contract.rows import Rows
from negplug.contract.sample_table import Room, check_indexes, check_samples, views_of
from negplug.contract.sampler import NegativeSampler, Sampled
from negplug.contract.state import Stateful
from negplug.kernels.chain import Moves
from negplug.kernels.random.numbers import RandomNumbers
from negplug.samplers.chains.absent import AbsentStates, embedded
from negplug.samplers.chains.cache import EmbeddingCache, ShownKeys
from negplug.samplers.chains.grouping import (
    PooledSamples,
    no_whole_pool,
    samples_of,
    whole_pool,
)
from negplug.samplers.chains.placed_pool import pool_of
from negplug.samplers.chains.step import ChainStep
from negplug.samplers.chains.table import ChainTable
from negplug.samplers.chains.visited import Ended, Visited
from negplug.samplers.chains.weighting import (
    drawn_rows,
    effective_number,
    softmax_over,
)
from negplug.samplers.common.choosing import ChoosingSampler
from negplug.samplers.common.saved_rows import check_width
from negplug.samplers.gather import Gather

OutOfBatch = Literal["recompute", "cached", "drop"]
_OPTIONS = ("recompute", "cached", "drop")


class ChainSampler(Stateful, NegativeSampler):
    """Draws from the softmax over the whole data set by a chain per sample and view.

    Args:
        name: The sampler's name, for messages.
        out_of_batch: What becomes of states outside the batch, see the module.
        size: Number of samples, which may be more than the data set says that it has, where each
            pass shows others; None takes what the run says, if it does.
        source: Whose rows are proposed; those of the batch, of all ranks, by default.

    Raises:
        ValueError, TypeError: If an argument cannot be used.
    """

    wants_indexes = True
    samples: int

    def __init__(
        self, name: str, out_of_batch: OutOfBatch, size: int | None, source: NegativeSampler | None
    ) -> None:
        super().__init__()
        if out_of_batch not in _OPTIONS:
            raise ValueError(
                f"{name}: out_of_batch must be one of {_OPTIONS}, got {out_of_batch!r}"
            )
        self.name = name
        self.out_of_batch = out_of_batch
        self.size = None if size is None else check_integer(name, "size", size, 1)
        self.source = Gather() if source is None else source
        if not isinstance(self.source, NegativeSampler):
            raise TypeError(f"{name}: source must be a sampler, got {source!r}")
        if isinstance(self.source, (ChoosingSampler, ChainSampler)):
            raise ValueError(no_whole_pool(name, self.source))
        self.chains = ChainTable()
        self.cache = EmbeddingCache()
        self.add_state("samples", default=0)
        self._tried = False

    def order(self, samples: PooledSamples, random: RandomNumbers) -> PooledSamples:
        """Return the samples in the order in which they are proposed: a new random one."""
        return samples.shuffled(random)

    @abc.abstractmethod
    def noise(self, scores: Tensor, random: RandomNumbers) -> Tensor:
        """Return the random numbers of a step, ``[N, …]``, for ``scores`` ``[N, C]``."""

    @abc.abstractmethod
    def move(
        self, scores: Tensor, initial: Tensor, place: Tensor, noise: Tensor, step: int
    ) -> Moves:
        """Move the chains.

        Args:
            scores: ``[N, C]``, logits of the proposed samples, in their order; -inf for those that
                an anchor may not have.
            initial: ``[N]``, logits of the states; -inf where a chain has none yet.
            place: ``[N]`` int64, the state's column if it is among the proposed samples, else -1.
            noise: What :meth:`noise` gave for these chains.
            step: Training steps done so far.
        """

    def left(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Return the weights ``[N, C]`` that are left to the batch where draws outside are dropped.

        Args:
            scores: As in :meth:`move`.
            weights: Those of all draws; outside the batch is what they lack of one.
        """
        return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)

    def sample(self, batch: ContrastiveBatch) -> Negatives | Sampled:
        """Move the chains of the batch's anchors and return their draws.

        Raises:
            ValueError: If data set indexes are unknown or beyond the data set, the source offers
                no whole pool, or samples outside the batch cannot be embedded.
        """
        pool = whole_pool(self.name, self.source, batch)
        if not batch.training:
            return softmax_over(batch, pool)
        batch.gathered()  # with its graph, for later callers
        with torch.no_grad():
            if self.chains.state.device != pool.ids.device:
                # A plain loop does not move the loss.
                self.to(pool.ids.device)
            check_width(self.name, self.cache.embedding, batch.anchors.embeddings)
            indexes = self._indexes(batch)
            if not len(pool):
                # A queue that is still empty: nothing to propose, but embeddings to remember.
                return Sampled(softmax_over(batch, pool), Visited(None, self._shown(batch)))
            return self._sample(batch, pool, indexes)

    def _sample(self, batch: ContrastiveBatch, pool: Rows, indexes: Tensor) -> Sampled:
        random = self.random(batch)
        ordered = pool_of(pool, self.order(samples_of(pool), random), len(batch.anchors))
        views = views_of(batch, indexes)
        before = ChainStep.of(batch, indexes, ordered, self.chains.read(indexes, views))
        step, moves, absent = self._moved(batch, before, indexes, random)
        state, score = step.end(moves)
        weights = moves.weights
        if self.out_of_batch == "drop":
            weights = self.left(step.scores, weights)
        drawn = [drawn_rows(step, weights)]
        if absent is not None:
            drawn.append(absent.drawn(moves.outside))
        score, names = batch.of_all_ranks(score, torch.stack([indexes, views, state]))
        size = self._size(batch)
        room = Room(names[0], names[1], batch.anchors.num_views, size)
        ended = Ended(names, score, room, size, step.measures(moves))
        return Sampled(tuple(drawn), Visited(ended, self._shown(batch)))

    def _moved(
        self, batch: ContrastiveBatch, step: ChainStep, indexes: Tensor, random: RandomNumbers
    ) -> tuple[ChainStep, Moves, AbsentStates | None]:
        """Return the step with all logits known, where its chains went, and states outside."""
        number, absent = int(batch.context.draws.step), None
        if self.out_of_batch == "cached":
            absent = self.cache.find(batch, step)
            step = step if absent is None else step.compared(absent.compared)
        noise = self.noise(step.scores, random)
        moves = self.move(step.scores, step.initial, step.place, noise, number)
        if self.out_of_batch != "recompute":
            return step, moves, absent
        self._try_once(batch, indexes)
        # How many there are decides what is embedded: the one option that waits for a device.
        away = (step.away & (moves.outside > 0)).nonzero()[:, 0]
        if len(away):
            # Another stream than that of the sampler's own draws.
            seed = int(batch.context.draws.seed_of(-1 - self.stream)) % (1 << 63)
            absent = AbsentStates.anew(self.name, batch, step, away, seed)
            step = step.compared(absent.compared)
            chosen = step.scores[away], step.initial[away], step.place[away], noise[away]
            again = self.move(*chosen, number)
            moves = Moves(
                *(
                    first.index_copy(0, away, second)
                    for first, second in zip(moves, again, strict=True)
                )
            )
        return step, moves, absent

    def _indexes(self, batch: ContrastiveBatch) -> Tensor:
        """Return the anchors' data set indexes, once those of all ranks are found to be good."""
        own, everyones = batch.anchors.indexes, batch.gathered().keys.indexes
        check_indexes(self.name, batch, None if own is None else everyones, self.size)
        check_samples(self.name, self.samples, self._size(batch))
        if batch.first_step and self.size is not None:
            rows = batch.anchors.embeddings
            width = rows.shape[1] if self.out_of_batch == "cached" else 0
            views = batch.anchors.num_views or 1
            needed = self.size * views * (8 + width * rows.element_size())
            check_room(self.name, "size", self.size, needed, rows.device)
        assert own is not None
        return own

    def _size(self, batch: ContrastiveBatch) -> int | None:
        """Return the number of samples in the data set, if it is known."""
        return self.size or batch.context.dataset.size

    def _try_once(self, batch: ContrastiveBatch, indexes: Tensor) -> None:
        """Embed one sample in the first step, on every rank, so that none fails alone later."""
        if not self._tried:
            embedded(self.name, batch, indexes[:1], 0)
            self._tried = True

    def _shown(self, batch: ContrastiveBatch) -> ShownKeys | None:
        """Return the step's keys of all ranks, where embeddings are cached."""
        return ShownKeys.of(batch, self._size(batch)) if self.out_of_batch == "cached" else None

    def update(self, seen: Visited) -> None:
        """Move the chains on, and remember the step's embeddings where that was asked for."""
        if seen.ended is not None:
            indexes, views, state = seen.ended.names
            self.samples = seen.ended.size or self.samples
            room = seen.ended.room()
            self.chains.write(indexes, views, room, state=state, score=seen.ended.score)
        if seen.shown is not None:
            self.cache.take(seen.shown)

    def metrics(
        self, batch: ContrastiveBatch, negatives: tuple[Negatives, ...], seen: Visited | None
    ) -> dict[str, float]:
        """Return acceptance rate, share of draws outside, staleness, effective number of draws.

        Means over the anchors for which they are known; what is known of none is left out.

        - ``acceptance``: the share of proposals that were accepted; of ``isir()``, of chains that
          went to another state.
        - ``outside``: the share of draws outside the batch, those that ``"drop"`` leaves out too.
        - ``staleness``: the change of a state's logit since its chain's last visit, of states
          inside the batch.
        - ``effective_draws``: 1/Σ_r w_r² over the rows drawn.
        """
        effective = effective_number(negatives)
        measured = {"effective_draws": effective[effective.isfinite()].mean()}
        if seen is not None and seen.ended is not None:
            measured |= seen.ended.measures.means()
        return {name: float(value) for name, value in measured.items() if not value.isnan()}

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless the saved chains are of a data set of this size."""
        check_samples(self.name, values["samples"], self.size)

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that resumes."""
        return {"out_of_batch": self.out_of_batch, "size": self.size}
