"""``false_negatives(action="attract")``: the nearest negatives are taken for false ones.

Source: Huynh et al. 2022, "Boosting contrastive self-supervised learning with false negative
cancellation" (https://arxiv.org/abs/2011.11765, sections 3.2 to 3.4; code: google-research/fnc).
A candidate j of anchor i is compared with views S_i of the anchor, and its score is the maximum

    q_ij = max_{s ∈ S_i} ⟨s, k_j⟩,

so that it need be like one view alone. (The paper also tries the mean; its authors' code has the
maximum.) F_i are the candidates that are among the ``top`` of the largest scores and above
``threshold``: 10 and 0.7 in their code. They are no negatives, and

- ``action="eliminate"``: leave the denominator,

      L_i = −log e^{s⁺}/(e^{s⁺} + Σ_{j ∈ N_i without F_i} e^{s_ij});

- ``action="attract"``: are positives as the anchor's own, P_i, are,

      L_i = log Σ_{j ∈ P_i ∪ N_i} e^{s_ij} − mean over P_i ∪ F_i of s_ij,

  which is what ``infonce()`` makes of them; every other objective combines them as it does several
  positives. A row of a queue is attracted as a constant.

S_i is the anchor and its positives: in a loss of two views both of them. The authors embed eight
views more for it, which are anchors and keys too; so do the further views of a loss that has more.

Candidates are the source's negatives, and weights of those that stay are kept. The ``top`` of a
maximum are among the ``top`` of each view, so a whole pool is read as by ``hard``, once for each
view (:mod:`negplug.kernels.nearest.views`), and what is kept is ``[N, top]`` and a mask ``[N, K]``
of booleans. Where the views of a sample are each compared with all of them, once for the sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer, check_number
from negplug.contract.layout import layout_of
from negplug.contract.negatives import Columns, Negatives, total_counts
from negplug.contract.sampler import NegativeSampler, Sampled
from negplug.kernels.late import free_to_read, known, read
from negplug.kernels.nearest import largest
from negplug.kernels.nearest.views import largest_similarities, nearest_of_views
from negplug.samplers.common.choosing import rows_offered
from negplug.samplers.in_batch import InBatch

Action = Literal["attract", "eliminate"]
_ACTIONS: tuple[str, ...] = get_args(Action)


class FalseNegatives(NegativeSampler):
    """The source's negatives without the nearest, which are attracted or left out.

    Args:
        action: ``"attract"`` makes false negatives positives of the anchor. ``"eliminate"`` leaves
            them out.
        top: How many negatives of an anchor are taken for false ones at most: the nearest.
        threshold: In [-1, 1): the score above which they are; -1 takes ``top`` of every anchor.
        support_views: With how many views of the anchor negatives are compared, itself included;
            None takes all that the loss has.
        source: Whose negatives these are; the batch's by default.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one has a value that cannot be used.
    """

    def __init__(
        self,
        action: Action = "attract",
        top: int = 10,
        threshold: float = 0.7,
        support_views: int | None = None,
        source: NegativeSampler | None = None,
    ) -> None:
        super().__init__()
        if action not in _ACTIONS:
            raise ValueError(f"false_negatives: action must be one of {_ACTIONS}, got {action!r}")
        self.action = action
        self.attracts = action == "attract"
        self.top = check_integer("false_negatives", "top", top, 1)
        self.threshold = check_number("false_negatives", "threshold", threshold, -1, 1)
        self.support_views = support_views
        if support_views is not None:
            check_integer("false_negatives", "support_views", support_views, 1)
        self.source = InBatch() if source is None else source
        if not isinstance(self.source, NegativeSampler):
            raise TypeError(f"false_negatives: source must be a sampler, got {source!r}")
        self._starts_empty = any(part.remembers for part in self.source.all_samplers())

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """What the source can offer."""
        return self.source.most

    def sample(self, batch: ContrastiveBatch) -> Sampled:
        """Return what is left of the source's negatives, and with it what is attracted.

        Raises:
            ValueError: If the source draws from the softmax or its negatives are no rows of a
                pool, or an anchor has fewer views than ``support_views``.
        """
        offered = rows_offered("false_negatives", self.source, batch)
        if batch.first_step and not self._starts_empty:
            self._check_number(offered, batch)
        support = self._support(batch)
        with torch.no_grad():
            nearest = [_nearest(batch, support, part, self.top) for part in offered]
            false = self._false([scores for scores, _ in nearest])
            found = [(slots, own) for (_, slots), own in zip(nearest, false, strict=True)]
            number = torch.stack([own.sum(1) for own in false]).sum(0)
        parts = zip(offered, found, strict=True)
        return Sampled(tuple(self._without(part, *which) for part, which in parts), number)

    def metrics(
        self, batch: ContrastiveBatch, negatives: tuple[Negatives, ...], seen: Tensor
    ) -> dict[str, float]:
        """Return the mean number of false negatives of an anchor."""
        return {"num_false_negatives": float(seen.float().mean())}

    def _check_number(self, offered: Sequence[Negatives], batch: ContrastiveBatch) -> None:
        """Warn if all negatives of a full batch may be false, when a loss teaches nothing."""
        most = read(total_counts(offered, batch.anchors).max())
        if most and most <= self.top:
            warnings.warn(
                f"false_negatives: top={self.top} may take all of the {most} negatives that an "
                f"anchor has in a full batch, and one without negatives learns nothing; lower top "
                f"or enlarge the batch",
                stacklevel=2,
            )

    @torch.no_grad()
    def _support(self, batch: ContrastiveBatch) -> list[Tensor]:
        """Return as many views of each anchor, ``[N, d]`` each, itself first.

        One that has fewer positives than another has itself again.
        """
        anchors, keys = batch.anchors.embeddings, batch.keys.embeddings
        positives, there = batch.positives, 1 + batch.positives.shape[1]
        if batch.padded:
            # Those that there are first; where values are free to read, no more than the most.
            present = positives >= 0
            positives = positives.gather(1, torch.argsort(~present, dim=1, stable=True))
            most = (read if batch.first_step else known)(present.sum(1).amax())
            there = there if most is None else 1 + most
        if self.support_views is not None and self.support_views > there:
            raise ValueError(
                f"false_negatives: support_views={self.support_views} is more than the {there} "
                f"views that this loss has of an anchor, itself included; lower it, or train with "
                f"more views"
            )
        columns = positives[:, : (self.support_views or there) - 1].unbind(1)
        others = [keys.index_select(0, each.clamp(min=0)) for each in columns]
        if batch.padded:
            paired = zip(columns, others, strict=True)
            others = [row.where((each >= 0)[:, None], anchors) for each, row in paired]
        return [anchors, *others]

    def _false(self, scores: list[Tensor]) -> list[Tensor]:
        """Return which entries of each pool, ``[N, t]``, are false negatives.

        Args:
            scores: ``[N, t]`` of each pool, in falling order.
        """
        if len(scores) == 1:
            return [scores[0] > self.threshold]
        every = torch.cat(scores, dim=1)
        best, places = largest(every, self.top)
        false = torch.zeros_like(every, dtype=torch.bool)
        false.scatter_(1, places, best > self.threshold)
        return list(torch.split(false, [each.shape[1] for each in scores], dim=1))

    def _without(self, part: Negatives, slots: Tensor, false: Tensor) -> Negatives:
        """Return a pool's negatives without some entries ``[N, t]``."""
        # One place more, for what stays: every write is the same, in any order.
        size = len(slots), part.width + 1
        removed = torch.zeros(size, dtype=torch.bool, device=slots.device)
        removed.scatter_(1, slots.where(false, part.width), True)
        kept = part.masked(~removed[:, : part.width])
        if not self.attracts:
            return kept
        columns = part.columns_at(slots).masked_fill(~false, -1)
        if part.attracted is not None:
            columns = torch.cat([part.attracted, columns], dim=1)
        return replace(kept, attracted=columns)


def _nearest(
    batch: ContrastiveBatch, support: list[Tensor], part: Negatives, count: int
) -> tuple[Tensor, Tensor]:
    """Return the largest scores of each anchor in a pool, falling, and their entries.

    Returns:
        Scores ``[N, t]``, -inf where there are fewer, and entries ``[N, t]`` int64; t is ``count``,
        or the number of entries.
    """
    choice, pool = part.choice, part.rows.embeddings
    if isinstance(choice, Columns):
        scores = largest_similarities(support, pool, choice.columns)
        if part.mask is not None:
            scores = scores.masked_fill(~part.mask, -torch.inf)
        return largest(scores, count)
    if not len(pool):
        return pool.new_empty(len(support[0]), 0), batch.positives.new_empty(len(support[0]), 0)
    ids, mask, count = batch.anchors.ids, part.mask, min(count, len(pool))
    alike = 1 if mask is not None else _alike(batch, len(support))
    if alike > 1:
        # What is nearest to all views of a sample is the same for each of them.
        ids, support = ids.chunk(alike)[0], [rows.chunk(alike)[0] for rows in support]
    scores, columns = nearest_of_views(support, pool, ids, part.rows.ids, count, mask)
    return (scores, columns) if alike == 1 else (scores.repeat(alike, 1), columns.repeat(alike, 1))


def _alike(batch: ContrastiveBatch, views: int) -> int:
    """Return V, where it is known that the V views of a sample are compared with the same rows.

    That is where the anchors lie view after view, and each is compared with all of them; 1 if not.
    """
    rows, own = batch.anchors, batch.self_columns
    if own is None or rows.num_views != views or batch.padded or not free_to_read(own.device):
        return 1
    size, first = len(rows) // views, batch.own_keys.start or 0
    layout = layout_of(views, size, own)
    found = (own, layout.rows + first), (batch.positives, layout.positives + first)
    same = all(torch.equal(*pair) for pair in (*found, (rows.ids[size:], rows.ids[:-size])))
    return views if same else 1


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``false_negatives``."""
    yield SamplerSpec(
        "false_negatives",
        FalseNegatives,
        "the nearest are false: attracted as positives, or left out",
        "Huynh et al. 2022, arXiv:2011.11765",
    )
