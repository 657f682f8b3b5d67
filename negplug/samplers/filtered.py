"""``filtered(by="labels", similarity=t)``: a source without its suspected false negatives.

Source: the elimination strategy of Huynh et al., "Boosting contrastive self-supervised learning
with false negative cancellation" (2022, arXiv:2011.11765): what is found to be a false negative
of an anchor leaves its denominator and is not attracted either. From the source's negatives N_i of
anchor i with label y_i this keeps

    { j ∈ N_i :  y_j ≠ y_i or y_i = −1 }        with by="labels",
    { j ∈ N_i :  ⟨a_i, k_j⟩ ≤ t }               with similarity=t,

and what passes both tests with both. How they are found is simpler than in the paper, which
compares a candidate with several further views of the anchor, aggregates, and takes the top k, a
threshold, or both: here it is compared with the anchor itself, as the loss sees it, against a
threshold alone. Labels in place of it are the ideal case, for data that has some.

Weights of the source stay: one whose weighted draws estimate a sum over its negatives then
estimates the sum over those that are kept. For a whole pool the result is a mask ``[N, K]`` of
booleans; similarities exist a tile at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.ids import UNKNOWN
from negplug.contract.negatives import Columns, Negatives, total_counts
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.late import look
from negplug.kernels.pool.tiled import product_tiles
from negplug.samplers.common.choosing import labels_of, rows_offered
from negplug.samplers.in_batch import InBatch


class Filtered(NegativeSampler):
    """The source's negatives but those of the anchor's label, or too similar to it.

    Args:
        source: Whose negatives to filter; the batch's by default.
        by: ``"labels"`` removes rows with the anchor's label. A label of -1, of the anchor or the
            row, is unknown and removes nothing.
        similarity: t in (-1, 1] removes rows whose cosine similarity with the anchor is above t.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If no criterion is given, or one has a value that cannot be used.
    """

    def __init__(
        self,
        source: NegativeSampler | None = None,
        by: str | None = None,
        similarity: float | None = None,
    ) -> None:
        super().__init__()
        self.source = InBatch() if source is None else source
        if not isinstance(self.source, NegativeSampler):
            raise TypeError(f"filtered: source must be a sampler, got {source!r}")
        if by is None and similarity is None:
            raise ValueError('filtered: give by="labels", similarity=… or both')
        if by not in (None, "labels"):
            raise ValueError(f'filtered: by must be "labels" or None, got {by!r}')
        self.by = by
        self.similarity = None if similarity is None else _check_similarity(similarity)

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """What the source can offer."""
        return self.source.most

    def sample(self, batch: ContrastiveBatch) -> tuple[Negatives, ...]:
        """Return what is left of the source's negatives of ``batch``.

        Raises:
            ValueError: If labels are asked for and there are none.
        """
        offered = rows_offered("filtered", self.source, batch)
        parts = tuple(self._kept(batch, part) for part in offered)
        left = torch.stack([part.mask.any() for part in parts if part.mask is not None]).any()
        look("filtered: nothing left", ~left, lambda: self._warn(offered, batch.anchors))
        return parts

    def _warn(self, offered: tuple[Negatives, ...], anchors: Rows) -> None:
        if total_counts(offered, anchors).any():
            warnings.warn(
                f"filtered: by={self.by!r}, similarity={self.similarity} leaves no anchor of a "
                f"batch a negative, so its loss teaches nothing; raise similarity or enlarge the "
                f"source",
                stacklevel=2,
            )

    @torch.no_grad()
    def _kept(self, batch: ContrastiveBatch, part: Negatives) -> Negatives:
        keep = part.serving(batch.anchors)
        if self.by is not None:
            keep &= self._differs_in_label(batch, part)
        if self.similarity is not None:
            keep = self._without_similar(batch, part, keep, self.similarity)
        return part.masked(keep)

    def _differs_in_label(self, batch: ContrastiveBatch, part: Negatives) -> Tensor:
        own, labels = labels_of("filtered", self.source, batch, part.rows)
        theirs = labels[part.choice.columns] if isinstance(part.choice, Columns) else labels
        return (own[:, None] != theirs).logical_or_((own == UNKNOWN)[:, None])

    def _without_similar(
        self, batch: ContrastiveBatch, part: Negatives, keep: Tensor, threshold: float
    ) -> Tensor:
        anchors, pool = batch.anchors.embeddings, part.rows.embeddings
        if isinstance(part.choice, Columns):
            return keep & (chosen_similarities(anchors, pool, part.choice.columns) <= threshold)
        kept = keep.clone()
        for rows, columns, tile in product_tiles(anchors, pool):
            kept[rows, columns].logical_and_(tile <= threshold)
        return kept


def _check_similarity(similarity: object) -> float:
    if not isinstance(similarity, (int, float)) or isinstance(similarity, bool):
        raise TypeError(f"filtered: similarity must be a number, got {similarity!r}")
    if not -1.0 < similarity <= 1.0:
        raise ValueError(f"filtered: similarity must be in (-1, 1], got {similarity}")
    return float(similarity)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``filtered``."""
    yield SamplerSpec(
        "filtered",
        Filtered,
        "false negatives removed, by label or by similarity",
        "Huynh et al. 2022, arXiv:2011.11765",
    )
