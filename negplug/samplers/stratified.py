"""``stratified(num_negatives=M, by=…, same=p)``: so many negatives of the anchor's own stratum.

Stratified sampling with fixed allocation (Cochran, "Sampling techniques", 3rd ed. 1977, chapter
5), for each anchor on its own. The source's negatives N_i of anchor i with stratum y_i fall into
two parts,

    N_i¹ = { j ∈ N_i : y_j = y_i },     N_i⁰ = N_i without N_i¹,

from which M¹ = round(p·M) (half to even) and M⁰ = M − M¹ are drawn uniformly without replacement.
With ``correction=True`` a draw of part c weighs |N_iᶜ|/Mᶜ, one over the probability with which it
is drawn (Horvitz & Thompson 1952), so that the denominator estimates the full one without bias:

    E[ Σ_c |N_iᶜ|/Mᶜ Σ_{j ∈ S_iᶜ} e^{s_ij} ] = Σ_{j ∈ N_i} e^{s_ij}.

An anchor of unknown stratum (-1) has N_i¹ = ∅; a row of unknown stratum is in N_i⁰. A part that
holds fewer than its share gives all it has, and the other part does not make up for it.

A pool sorted by stratum has an anchor's own one in a single block. A draw is then a place inside or
outside that block, so that nothing of size ``[N, K]`` is made.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_flag
from negplug.contract.negatives import Columns, Negatives, enumerated
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import known
from negplug.kernels.random.distinct import distinct_places
from negplug.kernels.random.numbers import RandomNumbers
from negplug.samplers.common.allocation import Allocation
from negplug.samplers.common.choosing import ChoosingSampler, rows_offered
from negplug.samplers.common.sorted_pool import SortedPool
from negplug.samplers.common.strata import Strata


class Stratified(ChoosingSampler):
    """M negatives per anchor, a fixed share of them of the anchor's own stratum.

    Args:
        num_negatives: M ≥ 1.
        by: Where strata come from: ``"labels"``, the path of a ``.npy`` file of integers ``[n]``,
            one per data set index, such a tensor, or the name of a column of the data set, whose
            values are integers or strings. -1 and None are unknown.
        same: p in [0, 1], the share of the own stratum.
        correction: Weigh the draws so that they estimate the source's whole denominator.
        source: Where to draw from; the batch by default.
        parent: Whether the file or tensor has a value for each sample of the data set that the
            training ``Subset`` was taken from, and not for each sample of the ``Subset``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value cannot be used, or ``correction`` is asked for though one part is
            never drawn from.
    """

    def __init__(
        self,
        num_negatives: int,
        by: str | Tensor = "labels",
        same: float = 0.5,
        correction: bool = False,
        source: NegativeSampler | None = None,
        parent: bool = False,
    ) -> None:
        super().__init__("stratified", num_negatives, source)
        self.strata = Strata("stratified", by, parent)
        self.same = same
        self.wants_indexes = self.strata.metadata is not None
        self.wants_labels = not self.wants_indexes
        self.correction = check_flag("stratified", "correction", correction)
        self.allocation = Allocation(num_negatives, same, self.source)
        if self.correction and 0 in self.allocation.sizes:
            own, other = self.allocation.sizes
            raise ValueError(
                f"stratified: correction=True needs draws of both parts, but same={same} of "
                f"num_negatives={num_negatives} is {own} of the own stratum and {other} of others"
            )

    @property
    def by(self) -> str:
        """What tells the strata from others, for messages and checkpoints."""
        return str(self.strata)

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        """Draw from the source's negatives of ``batch``.

        Raises:
            ValueError: If labels or indexes are missing, or if the first training batch, taken
                for a full one, offers no anchor its share of one of the parts.
        """
        pools = rows_offered("stratified", self.source, batch)
        offered = pools[0]
        serves = offered.common_mask
        if len(pools) > 1 or (offered.mask is not None and serves is None):
            offered = enumerated(pools, batch.anchors)
        own, rows = self.strata.of(self.source, batch, offered.rows)
        if not len(rows):
            return offered
        parts: SortedPool | _ChosenColumns
        if isinstance(offered.choice, Columns):
            parts = _ChosenColumns(offered.choice, own, rows)
        else:
            parts = SortedPool(batch.anchors.ids, offered.rows.ids, own, rows, serves)
        self.allocation.check(parts.available, own, batch, offered.width)
        random = self.random(batch)
        drawn = [
            self._draw(offered, parts, part, asked, random)
            for part, asked in enumerate(self.allocation.sizes)
            if asked
        ]
        columns, masks, weights = zip(*drawn, strict=True)
        mask = torch.cat(masks, dim=1)
        return offered.chosen(
            torch.cat(columns, dim=1),
            None if known(mask.all()) else mask,
            None if weights[0] is None else torch.cat(weights, dim=1),
        )

    def _draw(
        self,
        offered: Negatives,
        parts: SortedPool | _ChosenColumns,
        part: int,
        asked: int,
        random: RandomNumbers,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return columns, mask and log weights, ``[N, ≤ asked]``, of one part's draws."""
        available = parts.available[part]
        places, mask = distinct_places(available, asked, random)
        slots = parts.slots(part, places)
        mask = torch.ones_like(slots, dtype=torch.bool) if mask is None else mask
        columns, weight = offered.columns_at(slots), offered.weight_at(slots)
        if self.correction:
            dtype = offered.rows.embeddings.dtype
            more = (available.clamp(min=asked).to(dtype) / asked).log()[:, None]
            weight = more if weight is None else weight + more
        return columns, mask, None if weight is None else weight.expand(columns.shape)


class _ChosenColumns:
    """Columns that a source chose for each anchor; attributes as :class:`SortedPool`."""

    def __init__(self, choice: Columns, own: Tensor, rows: Tensor) -> None:
        inside = (rows[choice.columns] == own[:, None]) & (own != UNKNOWN)[:, None]
        outside = ~inside
        if choice.mask is not None:
            inside, outside = inside & choice.mask, outside & choice.mask
        self._members = inside, outside
        self.available = inside.sum(1), outside.sum(1)

    def slots(self, part: int, places: Tensor) -> Tensor:
        """Return the entries that are at places ``[N, m]`` of a part."""
        # Members first, in their order, so that place r is the r-th of them.
        return torch.argsort(~self._members[part], dim=1, stable=True).gather(1, places)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``stratified``."""
    yield SamplerSpec(
        "stratified",
        Stratified,
        "a fixed share of each anchor's own stratum",
        "Cochran 1977, Sampling techniques",
    )
