"""``nearest(num_negatives=M, similarity=s)``: the M negatives nearest to a similarity.

An example of a third-party sampler. It is all that a distribution needs: a class, a hook that
offers it, and the entry point in ``pyproject.toml``.

For an anchor a and its negatives k (every key of the batch but the anchor itself and its
positives), the M keys with the smallest |⟨a, k⟩ − s| are taken: the easy ones at s = −1, the
hardest at s = 1, and those between, neither trivial nor likely false, in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from negplug import ChoosingSampler, ContrastiveBatch, Negatives, SamplerSpec, hookimpl

# Of negplug, major and minor; with an older one this plugin is left out, and said to be.
REQUIRES_HOOKSPEC = (1, 0)


class Nearest(ChoosingSampler):
    """The negatives whose cosine similarity to the anchor is nearest to a chosen one.

    Args:
        num_negatives: M ≥ 1; a batch with fewer negatives, as an epoch's last one, gives them all.
        similarity: s in [−1, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> loss_fn = negplug.ContrastiveLoss("nearest(num_negatives=16, similarity=0.2)")
    """

    def __init__(self, num_negatives: int, similarity: float = 0.5) -> None:
        super().__init__("nearest", num_negatives, source=None)
        if not -1 <= similarity <= 1:
            raise ValueError(f"nearest: similarity must be from -1 to 1, got {similarity}")
        self.similarity = similarity

    @torch.no_grad()
    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Choose from the keys of ``batch``."""
        (offered,) = self.source(batch)  # every key of the batch, K
        serving = offered.serving(batch.anchors)  # [N, K]: not the anchor itself, no positive
        if not self.availability.exceeded((offered,), serving.sum(1), batch.first_step):
            return offered  # no anchor has more than M
        similarities = batch.anchors.embeddings @ offered.rows.embeddings.T
        distance = (similarities - self.similarity).abs().masked_fill(~serving, torch.inf)
        nearest, columns = distance.topk(self.num_negatives, dim=1, largest=False)  # [N, M]
        return offered.chosen(columns, nearest.isfinite(), offered.weight_at(columns))


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``nearest``."""
    yield SamplerSpec("nearest", Nearest, "the nearest to a chosen similarity")
