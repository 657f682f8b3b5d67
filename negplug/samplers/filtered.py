"""``filtered(…)``: a source without its suspected false negatives.

Source: the elimination strategy of Huynh et al., "Boosting contrastive self-supervised learning
with false negative cancellation" (2022, arXiv:2011.11765): what is found to be a false negative
of an anchor leaves its denominator and is not attracted either. From the source's negatives N_i of
anchor i this takes out those that any criterion names:

- ``by="labels"``: the anchor's label y_i ≠ −1;
- ``by="groups"``: its group, and window (:mod:`negplug.samplers.filtering.groups`); by any other
  name its group in that column of the data set;
- ``pairs``: single pairs (:mod:`negplug.samplers.filtering.pairs`);
- ``similarity``, ``absolute_margin``, ``relative_margin``: too similar to the anchor, by itself or
  beside its positive (:mod:`negplug.samplers.filtering.limits`).

The paper compares a candidate with several further views of the anchor, aggregates, and takes the
top k, a threshold, or both: :mod:`negplug.samplers.false_negatives` does. Here it is compared with
the anchor itself, as the loss sees it.

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
from negplug.contract.inputs import check_flag
from negplug.contract.negatives import Negatives, total_counts
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import look
from negplug.samplers.common.choosing import labels_of, rows_offered
from negplug.samplers.common.metadata_given import check_column
from negplug.samplers.filtering import at_entries
from negplug.samplers.filtering.groups import Groups
from negplug.samplers.filtering.guides import Embedder
from negplug.samplers.filtering.limits import Limits
from negplug.samplers.filtering.pairs import Pairs
from negplug.samplers.in_batch import InBatch

_NOTHING = (
    'filtered: give by="labels", by="groups" with file=…, pairs=…, similarity=…, '
    "absolute_margin=…, relative_margin=…, the name of a column, or several of them"
)

_BY = '"labels", "groups" with file=… (the path of a .npy file), None'


class Filtered(NegativeSampler):
    """The source's negatives without those that a criterion takes for false ones.

    Args:
        source: Whose negatives to filter; the batch's by default.
        by: ``"labels"`` removes rows with the anchor's label. ``"groups"`` removes rows of its
            group in ``file``. Any other name, ``"patient_id"``, say, is a column of the data set,
            integers or strings, and removes rows with the anchor's value. A label or a group of
            -1 or None, of the anchor or the row, is unknown and removes nothing.
        similarity: t in (-1, 1] removes rows whose cosine similarity with the anchor is above t.
        absolute_margin: m in [0, 2) removes rows that are nearer than s⁺ − m, with s⁺ the
            similarity of the anchor's nearest positive.
        relative_margin: r in [0, 1) removes rows that are nearer than s⁺ − r·abs(s⁺).
        guide: Other embeddings, whose similarities the three limits then refer to: the path of a
            ``.npy`` file, or a tensor, ``[n, d]``, one row per data set index. Or a function from
            indexes ``[n]`` to embeddings, a frozen encoder say. It is asked once for every sample,
            in the first training step.
        file: The path of a ``.npy`` file, or a tensor, of the groups: integers ``[n]``, one per
            data set index; ``[n, 2]`` with a window, groups and places in them.
        window: Δ ≥ 0: only rows of the group whose place is within Δ of the anchor's.
        pairs: The path of a ``.npy`` file, or a tensor, of data set indexes ``[p, 2]``: pairs that
            are no negatives of each other.
        parent: Whether ``file`` and ``guide`` have a row for each sample of the data set that the
            training ``Subset`` was taken from, and not for each sample of the ``Subset``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If no criterion is given, or one has a value that cannot be used.
    """

    def __init__(
        self,
        source: NegativeSampler | None = None,
        by: str | None = None,
        similarity: float | None = None,
        absolute_margin: float | None = None,
        relative_margin: float | None = None,
        guide: str | Tensor | Embedder | None = None,
        file: str | Tensor | None = None,
        window: float | None = None,
        pairs: str | Tensor | None = None,
        parent: bool = False,
    ) -> None:
        super().__init__()
        self.source = InBatch() if source is None else source
        if not isinstance(self.source, NegativeSampler):
            raise TypeError(f"filtered: source must be a sampler, got {source!r}")
        limits = similarity, absolute_margin, relative_margin
        limited = any(limit is not None for limit in limits)
        if by is None and pairs is None and not limited:
            raise ValueError(_NOTHING)
        column = None
        if by not in (None, "labels", "groups"):
            column = check_column("filtered", by, _BY)
        if (by == "groups") != (file is not None):
            raise ValueError(
                f'filtered: by="groups" and file=… go together, got by={by!r} and '
                f"{'no file' if file is None else 'a file'}"
            )
        if window is not None and by != "groups":
            raise ValueError(f'filtered: window={window} is said of by="groups", got by={by!r}')
        if guide is not None and not limited:
            raise ValueError(
                "filtered: guide=… needs a limit of its similarities; give similarity=…, "
                "absolute_margin=… or relative_margin=…"
            )
        if check_flag("filtered", "parent", parent) and file is None and guide is None:
            raise ValueError("filtered: parent=True is said of file=… or guide=…; give one of them")
        self.by, self.window, self.parent = by, window, parent
        self.similarity, self.absolute_margin, self.relative_margin = limits
        self.file = None
        if file is not None or column is not None:
            self.file = Groups("filtered", file, window, parent, column)
        self.pairs = None if pairs is None else Pairs("filtered", pairs)
        self.limits = Limits("filtered", *limits, guide, parent) if limited else None
        self.guide = None if self.limits is None else self.limits.guide
        self.wants_indexes = any(part is not None for part in (self.file, self.pairs, self.guide))
        self.wants_labels = by == "labels"

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """What the source can offer."""
        return self.source.most

    def sample(self, batch: ContrastiveBatch) -> tuple[Negatives, ...]:
        """Return what is left of the source's negatives of ``batch``.

        Raises:
            ValueError: If labels or data set indexes are asked for and there are none.
        """
        offered = rows_offered("filtered", self.source, batch)
        parts = tuple(self._kept(batch, part) for part in offered)
        left = torch.stack([part.mask.any() for part in parts if part.mask is not None]).any()
        look("filtered: nothing left", ~left, lambda: self._warn(offered, batch.anchors))
        return parts

    def _warn(self, offered: tuple[Negatives, ...], anchors: Rows) -> None:
        if total_counts(offered, anchors).any():
            warnings.warn(
                f"filtered: {self} leaves no anchor of a batch a negative, so its loss teaches "
                f"nothing; loosen its criteria or enlarge the source",
                stacklevel=2,
            )

    @torch.no_grad()
    def _kept(self, batch: ContrastiveBatch, part: Negatives) -> Negatives:
        keep = part.serving(batch.anchors)
        if self.by == "labels":
            keep &= ~self._of_own_label(batch, part)
        for criterion in (self.file, self.pairs, self.limits):
            if criterion is not None:
                keep &= ~criterion.remove(self.source, batch, part)
        return part.masked(keep)

    def _of_own_label(self, batch: ContrastiveBatch, part: Negatives) -> Tensor:
        own, labels = labels_of("filtered", self.source, batch, part.rows)
        return (own[:, None] == at_entries(part, labels)) & (own != UNKNOWN)[:, None]


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``filtered``."""
    yield SamplerSpec(
        "filtered",
        Filtered,
        "suspected false negatives removed, by label, group, pair or similarity",
        "Huynh et al. 2022, arXiv:2011.11765",
    )
