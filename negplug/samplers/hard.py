"""``hard(num_negatives=M)``: the M most similar negatives of each anchor.

Source: the top-M rule of Kalantidis et al., "Hard negative mixing for contrastive learning"
(MoCHi, 2020, arXiv:2010.01028, section 4.1): sort an anchor's negatives by similarity, keep the
first M. With the source's negatives N_i of anchor i,

    S_i = the M of j ∈ N_i with the largest ⟨a_i, k_j⟩,

and nothing else of the source counts. Xuan et al., "Hard negative examples are hard, but useful"
(2020, arXiv:2007.12749) show when this collapses: anchors whose hardest negative is nearer than
their positive. ``filtered(similarity=…)`` as the source takes the nearest ones out; so does
``skip=r`` by rank, the "Top-k shifted by N" of Moreira et al., "NV-Retriever: improving text
embedding models with effective hard-negative mining" (2024, arXiv:2407.15831, section 3.2). With
j_1, j_2, … the negatives of anchor i from the nearest on,

    S_i = { j_{r+1}, …, j_{r+M} }.

Of equal similarities that of the smaller column counts as the larger, on every device. A whole pool
is read in tiles, each merged into the M best so far, so memory is O((N + K)·d + N·M).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import torch

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer
from negplug.contract.negatives import Columns, Negatives, enumerated, total_counts
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.nearest import largest, nearest_columns, which_are_there
from negplug.samplers.common.availability import Availability
from negplug.samplers.common.choosing import ChoosingSampler, rows_offered


class Hard(ChoosingSampler):
    """The M negatives most similar to each anchor.

    Args:
        num_negatives: M ≥ 1.
        source: Whose negatives to choose among; the batch's by default.
        skip: r ≥ 0: how many of the nearest are passed over as suspected false negatives.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``num_negatives`` < 1 or ``skip`` < 0, or if the source can never offer as
            many as both together.
    """

    def __init__(
        self, num_negatives: int, source: NegativeSampler | None = None, skip: int = 0
    ) -> None:
        super().__init__("hard", num_negatives, source)
        self.skip = check_integer("hard", "skip", skip, 0)
        if skip:
            self.availability = Availability(
                "hard",
                num_negatives + skip,
                self.source,
                "num_negatives + skip",
                f"those beyond the nearest {skip} are used",
            )

    def sample(self, batch: ContrastiveBatch) -> Negatives | tuple[Negatives, ...]:
        """Choose from the source's negatives of ``batch``.

        Raises:
            ValueError: If the first training batch, taken for a full one, has fewer than M + r
                negatives for every anchor. Ragged batches, and those of an evaluation, use what
                there is, with a warning.
        """
        offered = rows_offered("hard", self.source, batch)
        counts = functools.partial(total_counts, offered, batch.anchors)
        exceeded = self.availability.exceeded(offered, counts, batch.first_step)
        if not any(len(part.rows) for part in offered) or not (exceeded or self.skip):
            return offered
        return hardest(batch, offered, self.num_negatives, self.skip)


def hardest(
    batch: ContrastiveBatch, offered: Sequence[Negatives], count: int, skip: int = 0
) -> Negatives:
    """Return the ``count`` most similar negatives of each anchor as columns, hardest first.

    Args:
        batch: Anchors and their ids.
        offered: Negatives, whole pools or columns; at least one row in all.
        count: M ≥ 1.
        skip: r ≥ 0, how many still more similar ones are passed over.

    Returns:
        Columns ``[N, M]`` of one pool, masked where an anchor has fewer negatives than M beyond
        the first r. M is at most the number of entries that are offered.
    """
    parts = [_hardest(batch, part, count + skip) for part in offered if len(part.rows)]
    if len(parts) == 1:
        return _beyond(parts[0], skip)
    # The hardest of all are among the hardest of each pool: no [N, K] of a whole pool.
    return _beyond(_hardest(batch, enumerated(parts, batch.anchors), count + skip), skip)


def _beyond(chosen: Negatives, skip: int) -> Negatives:
    """Return chosen columns without the first ``skip`` of each anchor."""
    if not skip:
        return chosen
    assert isinstance(chosen.choice, Columns)
    columns, mask, weight = chosen.choice.columns, chosen.mask, chosen.log_weight
    if columns.shape[1] <= skip:  # nothing is left, in as many entries as there were
        return chosen.masked(torch.zeros_like(columns, dtype=torch.bool))
    mask = None if mask is None else mask[:, skip:]
    weight = weight if weight is None or weight.shape[1] == 1 else weight[:, skip:]
    return chosen.chosen(columns[:, skip:].contiguous(), mask, weight)


@torch.no_grad()
def _hardest(batch: ContrastiveBatch, part: Negatives, count: int) -> Negatives:
    anchors, pool = batch.anchors.embeddings, part.rows.embeddings
    if isinstance(part.choice, Columns):
        every = chosen_similarities(anchors, pool, part.choice.columns)
        if part.mask is not None:
            every = every.masked_fill(~part.mask, -torch.inf)
        similarities, slots = largest(every, count)
        there = which_are_there(similarities)
    else:
        count, ids = min(count, len(pool)), (batch.anchors.ids, part.rows.ids)
        slots, there = nearest_columns(anchors, pool, *ids, count, part.mask)
    return part.chosen(part.columns_at(slots), there, part.weight_at(slots))


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``hard``."""
    yield SamplerSpec(
        "hard", Hard, "the M most similar negatives", "Kalantidis et al. 2020, arXiv:2010.01028"
    )
