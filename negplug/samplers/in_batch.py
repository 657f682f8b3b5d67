"""``in_batch()``: the batch as the host forms it.

Every key that is neither the anchor nor one of its positives is a negative (SimCLR, Chen et al.
2020, https://arxiv.org/abs/2002.05709, equation 1). Which keys there are is the host's choice,
kept by its adapter: gathered over ranks if the host gathers, momentum keys if it contrasts with
momentum keys, the host's queue if it contrasts with nothing else (ReSSL). Stand-alone it is this
rank's other samples, all views.

With z_b^v of sample b and view v, the negatives of z_i^v are z_b^w of the samples b ≠ i and of

- ``views="both"``: all views w (SimCLR);
- ``views="cross"``: the other views w ≠ v (ReLIC, Mitrovic et al. 2020, PMLR v137, equation 3:
  "z_m^w"; CLIP, whose views are image and text);
- ``views="same"``: its own view w = v.

Cross and same share the other samples' rows between them, so their two sums add up to that of both.
Either half is streamed as whole pools are, with the same kernels (view by view, see
:mod:`negplug.objectives.logits.blocks`); nothing materialises ``[N, K]`` unless a sampler that
chooses among rows for each anchor reads them.

Where the keys are no anchors (a query against momentum keys or predictions, pairs of two encoders)
each key is another view than the anchor: "cross" is "both", and "same" is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.blocks import HALVES, Blocks
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.layout import layout_of
from negplug.contract.negatives import Negatives, Whole
from negplug.contract.sampler import NegativeSampler

_VIEWS = ("both", *HALVES)


class InBatch(NegativeSampler):
    """All keys of the batch but the anchor's own.

    Args:
        views: ``"both"``: keys of all views; ``"cross"``: of other views than the anchor's only;
            ``"same"``: of its own view only.

    Raises:
        ValueError: If ``views`` is none of the three.
    """

    expression = "in_batch()"

    def __init__(self, views: Literal["both", "cross", "same"] = "both") -> None:
        super().__init__()
        if views not in _VIEWS:
            raise ValueError(f"in_batch: views must be one of {_VIEWS}, got {views!r}")
        self.views = views
        if views != "both":
            self.expression = f"in_batch(views={views!r})"

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Return the batch's keys as a pool, exclusion by id; or the host's queue, see above.

        Raises:
            ValueError: If ``views`` asks for views that the batch does not tell apart.
        """
        pool = batch.all_keys() if batch.host_queue is None else Negatives(batch.host_queue)
        if self.views == "both":
            return pool
        if batch.self_columns is None or batch.host_queue is not None:
            if self.views == "cross":
                return pool
            raise ValueError(
                f"{self}: this loss compares an anchor with keys of other views alone, so none is "
                f'of its own; use in_batch() or views="cross"'
            )
        blocks = self._blocks(batch)
        anchors, keys, count = len(batch.anchors), len(batch.keys), blocks.num_views
        if count < 1 or anchors % count or keys % count:
            return pool.masked(blocks.mask())  # views of unequal numbers, or an unknown number
        return Negatives(batch.keys, Whole(blocks=blocks))

    def _blocks(self, batch: ContrastiveBatch) -> Blocks:
        anchors, keys = batch.anchors, batch.keys
        if anchors.views is None or keys.views is None:
            raise ValueError(
                f"{self}: needs the view of every row, which this loss does not say; use "
                f"in_batch(), or train with the callback, which knows how many samples a batch has"
            )
        count = anchors.num_views or 0
        ordered = False
        if count and keys.same_as(anchors) and not len(anchors) % count:
            known = layout_of(count, len(anchors) // count, anchors.embeddings)
            ordered = anchors.views is known.views
        half: Literal["cross", "same"] = "cross" if self.views == "cross" else "same"
        return Blocks(half, anchors.views, keys.views, count, ordered)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``in_batch``."""
    yield SamplerSpec(
        "in_batch", InBatch, "the batch as the host forms it", "Chen et al. 2020, arXiv:2002.05709"
    )
