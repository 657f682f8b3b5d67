"""The loss of two encoders: image and text, query and document."""

from __future__ import annotations

import abc

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.pairs import batch_of_pairs
from negplug.kernels.torch_private import outside_graphs
from negplug.loss.agreement import fails_together
from negplug.loss.stepped import SteppedLoss


class TwoTowerLoss(SteppedLoss, abc.ABC):
    """The side of :class:`negplug.loss.contrastive.ContrastiveLoss` that takes pairs."""

    @abc.abstractmethod
    def _contrast(self, batch: ContrastiveBatch, *, place: int = 0) -> Tensor:
        """Return the mean loss of a batch; ``place`` is whose state serves an evaluation."""

    def pairs(
        self,
        queries: Tensor,
        documents: Tensor,
        hard_negatives: Tensor | None = None,
        *,
        symmetric: bool = True,
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of B pairs of two encoders' embeddings.

        Query b is compared with document b, its positive, and with the negatives that the sampler
        takes among the other documents and all hard negatives. ``symmetric`` adds the other
        direction, each document against its query and the other queries, and returns the mean of
        both (CLIP, Radford et al. 2021, arXiv:2103.00020). With ``symmetric=False``,
        ``in_batch()`` and τ = 1/scale it is sentence-transformers'
        ``MultipleNegativesRankingLoss``.

        Each direction is a call of its own: what a sampler remembers, it remembers of each
        encoder apart, so that a query meets past documents alone.

        Args:
            queries: ``[B, d]`` embeddings of the first encoder, of any length and floating type.
            documents: ``[B, d]`` embeddings of the second; row b is the positive of query b.
            hard_negatives: Embeddings of documents that are negatives, ``[B, M, d]`` or
                ``[B·M, d]``, M for each query. They serve every query and are nobody's positive.
            symmetric: Whether documents are compared with queries too.
            indexes: ``[B]`` data set indexes of the pairs. A pair that is in the batch twice is
                then not its own negative.
            labels: ``[B]`` integer metadata of the pairs.

        Returns:
            A scalar in float32 or better, also under autocast.

        Raises:
            ValueError, TypeError: If something given cannot be used; the message names it.
        """
        there = self._direction(queries, documents, hard_negatives, indexes, labels, 0)
        if not symmetric:
            return there
        return (there + self._direction(documents, queries, None, indexes, labels, 1)) / 2

    @outside_graphs
    @fails_together
    def _direction(
        self,
        anchors: Tensor,
        keys: Tensor,
        hard_negatives: Tensor | None,
        indexes: Tensor | None,
        labels: Tensor | None,
        place: int,
    ) -> Tensor:
        batch = batch_of_pairs(anchors, keys, hard_negatives, indexes, labels, place)
        return self._contrast(batch, place=place)
