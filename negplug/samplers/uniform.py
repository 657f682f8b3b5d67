"""``uniform(num_negatives=M)``: M negatives per anchor, drawn uniformly without replacement.

Source: Mitrovic, McWilliams, Rey, "Less can be more in contrastive learning" (2020, PMLR
137:70-75, https://proceedings.mlr.press/v137/mitrovic20a.html): the number of negatives is
decoupled from the batch size, and few are often better. For anchor i with negatives N_i
(everything in the source but itself and its positives), S_i is a uniform M-subset of N_i, drawn
for each anchor on its own, and the loss of the anchor is

    −log  e^{s⁺/τ} / ( e^{s⁺/τ} + c_i Σ_{j ∈ S_i} e^{s_ij/τ} ),     c_i = 1,

or with ``correction=True`` c_i = |N_i|/M (the logQ correction of sampled softmax, Bengio &
Senécal 2008), for which the denominator is an unbiased estimate of the full one:
E[c_i Σ_{S_i} e^{s_ij}] = Σ_{N_i} e^{s_ij}.

``shared=True`` draws one set of M keys for all anchors, so that their logits are one matrix
product. An anchor's own keys are excluded from the set by id: it sees up to as many fewer
negatives as it has keys in the set. Every key is in the set with probability M/K, so there
c = K/M makes the estimate unbiased.

If M is at least the number of negatives, the source is handed on whole, so that M = |N_i|
reproduces it exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_flag
from negplug.contract.negatives import Negatives, enumerated, total_counts
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.random import distinct_integers
from negplug.kernels.random.distinct import distinct_places
from negplug.kernels.random.others import Others, others_of
from negplug.samplers.common.choosing import ChoosingSampler, rows_offered, serving_first


class Uniform(ChoosingSampler):
    """M negatives per anchor, uniformly without replacement.

    Args:
        num_negatives: M ≥ 1.
        shared: Draw one set for all anchors instead of one for each.
        correction: Weigh the draws so that they estimate the source's whole denominator.
        source: Where to draw from; the batch by default.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``num_negatives`` < 1.
    """

    def __init__(
        self,
        num_negatives: int,
        shared: bool = False,
        correction: bool = False,
        source: NegativeSampler | None = None,
    ) -> None:
        super().__init__("uniform", num_negatives, source)
        self.shared = check_flag("uniform", "shared", shared)
        self.correction = check_flag("uniform", "correction", correction)

    def sample(self, batch: ContrastiveBatch) -> Negatives | tuple[Negatives, ...]:
        """Draw from the source's negatives of ``batch``.

        Raises:
            ValueError: If the first training batch, taken for a full one, has fewer than M
                negatives for every anchor. Ragged batches, and those of an evaluation, use what
                there is, with a warning.
        """
        offered = rows_offered("uniform", self.source, batch)
        serves = offered[0].common_mask if len(offered) == 1 else None
        one_pool = len(offered) == 1 and (offered[0].one_whole_pool or serves is not None)
        if self.shared and not one_pool:
            raise ValueError(
                f"uniform: shared=True draws one set for all anchors, but {self.source} offers "
                f"them different rows; leave shared out, or give a source that is one whole pool "
                f"for all, such as in_batch() or a queue"
            )
        others = None
        if one_pool and not self.shared:
            # Looked up once, for the counts and for the draws.
            others = others_of(batch.anchors.comparable_ids, offered[0].rows.ids, serves)

        @functools.cache
        def available() -> Tensor:
            return total_counts(offered, batch.anchors) if others is None else others.available

        if not self.availability.exceeded(offered, available, batch.first_step):
            return offered
        if self.shared:
            return self._shared_set(batch, offered[0])
        one = offered[0] if one_pool else enumerated(offered, batch.anchors)
        return self._own_sets(batch, one, others, available)

    def _own_sets(
        self,
        batch: ContrastiveBatch,
        offered: Negatives,
        others: Others | None,
        available: Callable[[], Tensor],
    ) -> Negatives:
        """Draw a set for each anchor.

        Args:
            batch: The batch.
            offered: Columns of one pool, or a whole pool.
            others: Of a whole pool: its rows, to draw from.
            available: Returns ``[N]``, how many of them serve each anchor.
        """
        random = self.random(batch)
        if others is not None:
            slots, mask = others.draw(self.num_negatives, random)
        else:
            slots, mask = distinct_places(available(), self.num_negatives, random)
            if offered.mask is not None:
                # Valid entries first, in their order, so that place r is the r-th of them.
                slots = torch.argsort(~offered.mask, dim=1, stable=True).gather(1, slots)
        weight = offered.weight_at(slots)
        if self.correction:
            dtype = batch.anchors.embeddings.dtype
            weight = _plus(weight, _log_ratio(available(), self.num_negatives, dtype))
        return offered.chosen(offered.columns_at(slots), mask, weight)

    def _shared_set(self, batch: ContrastiveBatch, offered: Negatives) -> Negatives:
        serves, random = offered.common_mask, self.random(batch)
        mask = None
        if serves is None:
            # More than M.
            pool_size = offered.rows.ids.new_full((1,), len(offered.rows))
            chosen = distinct_integers(pool_size, self.num_negatives, random.new_seed())
        else:
            pool_size = serves.sum()[None]
            chosen, mask = distinct_places(pool_size, self.num_negatives, random)
        rows, order = chosen[0].sort()
        if serves is not None:
            rows = serving_first(serves)[rows]
        subset = offered.subset(rows)
        if serves is not None and mask is not None:
            subset = subset.masked(mask[0, order])
        weight = offered.log_weight
        if weight is not None and weight.shape[1] > 1:
            weight = weight[:, rows]
        if self.correction:
            # Every row is in the set with probability M/K (Horvitz–Thompson).
            dtype = batch.anchors.embeddings.dtype
            weight = _plus(weight, _log_ratio(pool_size, self.num_negatives, dtype))
        return replace(subset, log_weight=weight)


def _log_ratio(available: Tensor, asked: int, dtype: torch.dtype) -> Tensor:
    """Return log(available/drawn), ``[N, 1]``; 0 where no more than M were available."""
    return (available.clamp(min=asked).to(dtype) / asked).log()[:, None]


def _plus(weight: Tensor | None, more: Tensor) -> Tensor:
    return more if weight is None else weight + more


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``uniform``."""
    yield SamplerSpec(
        "uniform",
        Uniform,
        "M per anchor, uniformly without replacement",
        "Mitrovic et al. 2020, PMLR 137:70-75",
    )
