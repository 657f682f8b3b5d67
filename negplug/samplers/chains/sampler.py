"""Persistent chains over the images of the data set: what ``emc2`` and ``isir`` have in common.

Each sample i and view has a chain whose state is an image Z of the data set, aimed at

    p_i(c) ∝ mean over views u of c of exp(s(a_i, z_cu)/τ)

over all images c but i's own and positives.

A step proposes the images of the batch (of all ranks). The state may lie outside the batch; its
logit is then

- ``"recompute"``: that of the image embedded anew, where the state survives the burn-in under the
  logit of its last visit; the chain is run again from the new one with the same draws;
- ``"cached"``: that of the image's last embedding in a batch, at most two epochs old (V·d numbers
  per sample of the data set);
- ``"drop"``: that of its last visit. Draws of such states are left out, the weights of the others
  scaled up to one; an anchor whose draws are all outside has no negatives in this step.

``"recompute"`` alone is unbiased: ``"cached"`` has no gradient to the rows outside. In a batch of a
hundred those are few, and a step costs less, so it is the default (``benchmarks/studies/emc2``).

Weights are those of images, spread over their views by the views' own softmax (Rao–Blackwell).
States, and the logits of their last visit, are the same on all ranks; the draws are keyed by the
rank, so they are those of a single process only if given the same random numbers.

In an evaluation, whose samples may be of another data set, there are no chains: the weights are
what one would converge to over this batch alone, the softmax over its negatives.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_integer
from negplug.contract.negatives import Negatives
from negplug.contract.sample_table import PerSample, check_indexes, check_samples, views_of
from negplug.contract.sampler import NegativeSampler
from negplug.samplers.chains.absent import Outside, embedded
from negplug.samplers.chains.cache import EmbeddingCache
from negplug.samplers.chains.grouping import Images, images_of, no_whole_pool, whole_pool
from negplug.samplers.chains.ordered_pool import Arranged
from negplug.samplers.chains.step import Moves, Visit
from negplug.samplers.chains.weighting import (
    drawn_outside,
    drawn_rows,
    effective_number,
    softmax_over,
)
from negplug.samplers.common.choosing import ChoosingSampler
from negplug.samplers.common.settings import check_settings
from negplug.samplers.gather import Gather

OutOfBatch = Literal["recompute", "cached", "drop"]
_OPTIONS = ("recompute", "cached", "drop")


class ChainSampler(NegativeSampler):
    """Draws from the softmax over the whole data set by a chain per sample and view.

    Args:
        name: The sampler's name, for messages.
        out_of_batch: What becomes of states outside the batch, see the module.
        size: Number of samples in the data set; None takes what the run says, if it does.
        source: Whose rows are proposed; those of the batch, of all ranks, by default.

    Raises:
        ValueError, TypeError: If an argument cannot be used.
    """

    wants_indexes = True

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
        self._chains = PerSample(state=UNKNOWN, score=-torch.inf)
        self._cache = EmbeddingCache()
        self._samples: int | None = None
        self._tried = False

    def order(self, images: Images, generator: torch.Generator) -> Images:
        """Return the images in the order in which they are proposed: a new random one."""
        return images.shuffled(generator)

    @abc.abstractmethod
    def noise(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Return the random numbers of a step, ``[N, …]``, for ``scores`` ``[N, C]``."""

    @abc.abstractmethod
    def move(
        self, scores: Tensor, initial: Tensor, place: Tensor, noise: Tensor, step: int
    ) -> Moves:
        """Move the chains.

        Args:
            scores: ``[N, C]``, logits of the proposed images, in their order; -inf for those that
                an anchor may not have.
            initial: ``[N]``, logits of the states; -inf where a chain has none yet.
            place: ``[N]`` int64, the state's column if it is among the proposed images, else -1.
            noise: What :meth:`noise` gave for these chains.
            step: Training steps done so far.
        """

    def left(self, scores: Tensor, shares: Tensor) -> Tensor:
        """Return the shares ``[N, C]`` that are left to the batch where draws outside are dropped.

        Args:
            scores: As in :meth:`move`.
            shares: Those of all draws; outside the batch is what they lack of one.
        """
        return shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Move the chains of the batch's anchors and return their draws.

        Raises:
            ValueError: If data set indexes are unknown or beyond the data set, the source offers
                no whole pool, or samples outside the batch cannot be embedded.
        """
        pool = whole_pool(self.name, self.source, batch)
        if not batch.training:
            return softmax_over(batch, pool)
        batch.gathered()  # with its graph, for whoever asks later
        with torch.no_grad():
            if self._chains.device != batch.anchors.device:
                # In a plain loop nobody moves the loss.
                self.to(batch.anchors.device)
            indexes = self._indexes(batch)
            if not len(pool.pool):
                # A queue that is still empty: nothing to propose, but embeddings to remember.
                return replace(softmax_over(batch, pool), aux=self._incoming(batch))
            return self._sample(batch, pool, indexes)

    def _sample(self, batch: ContrastiveBatch, pool: Negatives, indexes: Tensor) -> Negatives:
        generator = self.generator(batch)
        arranged = Arranged.of(pool, self.order(images_of(batch, pool), generator))
        views = views_of(batch, indexes)
        visit = Visit.of(batch, indexes, arranged, self._chains.read(indexes, views))
        moves, outside = self._moved(batch, visit, indexes, generator)
        measures, (state, score) = visit.measures(moves), visit.end(moves)
        shares, gone = visit.shares(moves)
        if self.out_of_batch == "drop":
            shares = self.left(visit.scores, shares)
        negatives = drawn_rows(visit, shares)
        elsewhere = [] if outside is None else [drawn_outside(batch, outside, gone)]
        aux = self._changes(batch, torch.stack([indexes, views, state]), score)
        return replace(negatives, others=tuple(elsewhere), aux=aux | {"measures": measures})

    def _moved(
        self, batch: ContrastiveBatch, visit: Visit, indexes: Tensor, generator: torch.Generator
    ) -> tuple[Moves, Outside | None]:
        """Move the chains; return where they went, and what is known of states outside."""
        step, away, outside = batch.draws.step, visit.away(), None
        if self.out_of_batch == "cached" and len(away):
            outside = self._cache.find(batch, visit.state, away)
            visit.compare(outside)
        noise = self.noise(visit.scores, generator)
        moves = self.move(visit.scores, visit.initial, visit.place, noise, step)
        if self.out_of_batch != "recompute":
            return moves, outside
        self._try_once(batch, indexes)
        away = away[moves.stayed[away] > 0]
        if len(away):
            # Another stream than that of the sampler's own draws.
            seed = batch.draws.seed_of(-1 - self.stream)
            outside = Outside.anew(self.name, batch, visit.state, away, seed)
            visit.compare(outside)
            chosen = visit.scores[away], visit.initial[away], visit.place[away], noise[away]
            for first, again in zip(moves, self.move(*chosen, step), strict=True):
                first[away] = again
        return moves, outside

    def _indexes(self, batch: ContrastiveBatch) -> Tensor:
        """Return the anchors' data set indexes, once those of all ranks are found to be good."""
        everyones = batch.gathered().key_indexes
        known = None if batch.indexes is None else everyones
        check_indexes(self.name, batch, known, self.size)
        check_samples(self.name, self._samples, self.size or batch.dataset.size)
        assert batch.indexes is not None
        return batch.indexes

    def _try_once(self, batch: ContrastiveBatch, indexes: Tensor) -> None:
        """Embed one sample in the first step, on every rank, so that none fails alone later."""
        if not self._tried:
            embedded(self.name, batch, indexes[:1], 0)
            self._tried = True

    def _changes(self, batch: ContrastiveBatch, names: Tensor, score: Tensor) -> dict[str, Any]:
        """Return what :meth:`update` takes in, of all ranks."""
        score, names = batch.of_all_ranks(score, names)
        samples = self.size or batch.dataset.size
        chains = {"names": names, "score": score, "samples": samples}
        return {"chains": chains} | self._incoming(batch)

    def _incoming(self, batch: ContrastiveBatch) -> dict[str, Any]:
        """Return the step's keys of all ranks, where embeddings are cached."""
        return {"cache": self._cache.incoming(batch)} if self.out_of_batch == "cached" else {}

    def update(self, batch: ContrastiveBatch, negatives: Negatives) -> None:
        """Move the chains on, and remember the step's embeddings where that was asked for."""
        if "chains" in negatives.aux:
            changes = negatives.aux["chains"]
            indexes, views, state = changes["names"]
            self._samples = changes["samples"] or self._samples
            self._chains.write(indexes, views, state=state, score=changes["score"])
        if "cache" in negatives.aux:
            self._cache.take(**negatives.aux["cache"])

    def metrics(self, batch: ContrastiveBatch, negatives: Negatives) -> dict[str, float]:
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
        if "measures" in negatives.aux:
            measured |= negatives.aux["measures"].means()
        return {name: float(value) for name, value in measured.items() if not value.isnan()}

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that resumes."""
        return {"out_of_batch": self.out_of_batch, "size": self.size}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the chains, the cached embeddings, and the settings."""
        return {
            "settings": self.settings(),
            "samples": self._samples,
            "chains": self._chains.state(),
            "cache": self._cache.state(),
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ``ValueError`` if ``state`` was saved by another sampler or with other settings."""
        check_settings(self, self.settings(), state.get("settings", {}))

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.check_state(state)
        self._samples = state["samples"]
        self._chains.load(state["chains"])
        self._cache.load(state["cache"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ChainSampler:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._chains.apply(fn)
        self._cache.apply(fn)
        return self
