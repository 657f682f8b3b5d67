"""How similar to the anchor a negative may be, in absolute terms or beside the positive.

With s the cosine similarity, and s_i⁺ that of the nearest positive of anchor i, j is no negative
of i if s_ij is above one of

    t,      s_i⁺ − m  (absolute margin),      s_i⁺ − r·|s_i⁺|  (relative margin).

Source of the margins: Moreira et al., "NV-Retriever: improving text embedding models with
effective hard-negative mining" (2024, arXiv:2407.15831, section 3.2: TopK-MarginPos and, for
positive similarities, TopK-PercPos with the percentage 1 − r). With a guide, s is that of fixed
embeddings of another model, which does not learn to be wrong with the one that is trained
(Solatorio 2024, "GISTEmbed", arXiv:2402.16829).
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.inputs import check_number
from negplug.contract.negatives import Columns, Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.pool.tiled import product_tiles
from negplug.samplers.filtering import at_entries
from negplug.samplers.filtering.guides import Embedder, Guide


class Limits:
    """The least of the limits that are given.

    Args:
        name: The sampler's name, for messages.
        similarity: t in (-1, 1].
        absolute_margin: m in [0, 2).
        relative_margin: r in [0, 1).
        guide: The path of a ``.npy`` file, or a tensor, of embeddings ``[n, d]``, one per data set
            index, or a function that embeds samples, whose similarities decide; None for those of
            the anchors and rows themselves.
        parent: Whether the guide is of the data set that the training ``Subset`` was taken from.

    Raises:
        TypeError, ValueError: If a value cannot be used.
    """

    def __init__(
        self,
        name: str,
        similarity: float | None,
        absolute_margin: float | None,
        relative_margin: float | None,
        guide: str | Tensor | Embedder | None = None,
        parent: bool = False,
    ) -> None:
        self._similarity = None if similarity is None else _check_similarity(name, similarity)
        self._absolute = _margin(name, "absolute_margin", absolute_margin, 2.0)
        self._relative = _margin(name, "relative_margin", relative_margin, 1.0)
        self.guide = None if guide is None else Guide(name, guide, parent)

    def remove(self, source: NegativeSampler, batch: ContrastiveBatch, part: Negatives) -> Tensor:
        """Return ``[N, E]``, True where an entry is too similar to the anchor.

        Raises:
            ValueError: If there is a guide, and data set indexes are unknown in training.
        """
        anchors, pool = batch.anchors.embeddings, part.rows.embeddings
        known: Tensor | None = None
        if self.guide is not None:
            own, theirs = self.guide.of(source, batch, part.rows)
            anchors, pool = own.values, theirs.values
            known = own.known[:, None] & at_entries(part, theirs.known)
        highest = self._highest(source, batch, anchors)
        if isinstance(part.choice, Columns):
            similar = chosen_similarities(anchors, pool, part.choice.columns) > highest
        else:
            shape = len(anchors), len(pool)
            similar = torch.empty(shape, dtype=torch.bool, device=anchors.device)
            for rows, columns, tile in product_tiles(anchors, pool):
                torch.gt(tile, highest[rows], out=similar[rows, columns])
        return similar if known is None else similar & known

    def _highest(self, source: NegativeSampler, batch: ContrastiveBatch, anchors: Tensor) -> Tensor:
        """Return the similarity up to which a row is a negative, ``[N, 1]``."""
        highest = anchors.new_full((len(anchors), 1), torch.inf)
        if self._similarity is not None:
            highest = highest.clamp(max=self._similarity)
        if self._absolute is None and self._relative is None:
            return highest
        positive = self._positive(source, batch, anchors)
        if self._absolute is not None:
            highest = torch.minimum(highest, positive - self._absolute)
        if self._relative is not None:
            # Without a positive ∞ − ∞ would hide the other limits.
            highest = torch.fmin(highest, positive - self._relative * positive.abs())
        return highest

    def _positive(
        self, source: NegativeSampler, batch: ContrastiveBatch, anchors: Tensor
    ) -> Tensor:
        """Return each anchor's similarity with its nearest positive, ``[N, 1]``, ∞ without one."""
        present, keys = batch.positives >= 0, batch.keys.embeddings
        if self.guide is not None:
            own, theirs = self.guide.of(source, batch, batch.keys)
            keys = theirs.values
            present = present & own.known[:, None] & theirs.known[batch.positives.clamp(min=0)]
        similarities = chosen_similarities(anchors, keys, batch.positives.clamp(min=0))
        nearest = similarities.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
        return nearest.where(present.any(1, keepdim=True), torch.inf)


def _margin(name: str, argument: str, value: float | None, below: float) -> float | None:
    return None if value is None else check_number(name, argument, value, 0.0, below)


def _check_similarity(name: str, similarity: object) -> float:
    if not isinstance(similarity, (int, float)) or isinstance(similarity, bool):
        raise TypeError(f"{name}: similarity must be a number, got {similarity!r}")
    if not -1.0 < similarity <= 1.0:
        raise ValueError(f"{name}: similarity must be in (-1, 1], got {similarity}")
    return float(similarity)
