"""``hierarchical(tier, tier, …)``: several samplers side by side in one denominator.

Source: the two levels of Wang et al., "Cross-batch memory" (2020, arXiv:1912.06798),
which adds the pairs of a memory to those of the batch; here for any samplers. With S_it the
negatives that tier t chooses for anchor i, the denominator runs over their union,

    −log  e^{s⁺/τ} / ( e^{s⁺/τ} + Σ_{j ∈ ∪_t S_it} e^{s_ij/τ} ).

No pool is copied: each tier's negatives keep their own and go through the kernel that suits them.

A row that several tiers choose counts once. Rows are the same if they are the same column of the
same pool, a key of this rank being the same in ``in_batch()`` as in ``gather()``. Copies of rows
cannot be recognised: a set drawn with ``shared=True``, a queue's copy of a key of this batch,
and what was drawn from a ``hierarchical`` source are rows of their own.

Equal memories in one expression, ``queue(size=1024)`` written twice, are one memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.ids import BEYOND
from negplug.contract.negatives import Columns, Mixtures, Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.samplers.common.sharing import fit_again, share_memories

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite


class Hierarchical(NegativeSampler):
    """The union of what its tiers choose.

    Args:
        *tiers: Two samplers or more. A memory in a later tier that equals one of an earlier tier
            is replaced by it.

    Raises:
        TypeError: If a tier is no sampler.
        ValueError: If there are fewer than two tiers.
    """

    def __init__(self, *tiers: NegativeSampler) -> None:
        super().__init__()
        for number, tier in enumerate(tiers, start=1):
            if not isinstance(tier, NegativeSampler):
                raise TypeError(f"hierarchical: tier {number} must be a sampler, got {tier!r}")
        if len(tiers) < 2:
            raise ValueError(
                f"hierarchical: needs two tiers or more, got {len(tiers)}; write "
                f"hierarchical(in_batch(), queue(size=1024)), say"
            )
        self.tiers = nn.ModuleList(tiers)
        share_memories(self)

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """The sum over the tiers; None if the batch decides for one of them."""
        each = [tier.most for tier in self._tiers()]
        known = [most for most in each if most is not None]
        return sum(known) if len(known) == len(each) else None

    def fit_host(self, site: LossSite | None) -> None:
        """Let all inside look again: a later tier was fitted before the memory that it shares."""
        fit_again(self, site)

    def sample(self, batch: ContrastiveBatch) -> tuple[Negatives, ...]:
        """Return the first tier's negatives, with those of the others that are not among them.

        Raises:
            ValueError: If a tier draws from the softmax, so that its draws weigh more than one
                row; or if tiers overlap and one weighs its rows, since the weight of a row that
                several tiers may choose is then not defined, or attracts some, which another may
                push away.
        """
        tiers: list[tuple[Negatives, ...]] = []
        for number, tier in enumerate(self._tiers(), start=1):
            offered: tuple[Negatives, ...] = tier(batch)
            if offered[0].estimator != "partition":
                raise ValueError(
                    f"hierarchical: tier {number}, {tier}, draws from the softmax and stands for "
                    f"all negatives; it cannot share a denominator"
                )
            tiers.append(offered)
        # Afterwards: where the batch's own rows are, a tier that gathers decides.
        parts: list[_Part] = []
        for offered in tiers:
            placed = [_placed(batch, part) for part in offered]
            _check_attraction(parts, placed)
            parts.extend(placed)
        return tuple(_without_repeats(parts))

    def __str__(self) -> str:
        """Return the expression, or the tiers if it was made without one."""
        return self.expression or f"hierarchical({', '.join(map(str, self._tiers()))})"

    def _tiers(self) -> list[NegativeSampler]:
        return [cast(NegativeSampler, tier) for tier in self.tiers]


@dataclass(frozen=True)
class _Part:
    """One pool's negatives, and where that pool lies in a larger one.

    Attributes:
        negatives: Of one pool.
        pool: The name of the larger pool, or of the pool itself.
        first: The pool's first row in it.
    """

    negatives: Negatives
    pool: str
    first: int = 0

    @property
    def whole(self) -> bool:
        """Whether every row serves every anchor that has another id."""
        return self.negatives.one_whole_pool

    def columns(self) -> Tensor:
        """Return the columns in the larger pool, ``[N, M]``."""
        choice, mask = self.negatives.choice, self.negatives.mask
        if isinstance(choice, Columns):
            return choice.columns + self.first
        assert mask is not None  # a whole pool without a mask is kept or dropped as it is
        return torch.arange(mask.shape[1], device=mask.device).expand_as(mask) + self.first

    def chooses(self, columns: Tensor) -> Tensor:
        """Return which of ``columns`` ``[N, M]`` of the larger pool are negatives here too."""
        choice, mask = self.negatives.choice, self.negatives.mask
        columns = columns - self.first
        if not isinstance(choice, Columns):
            size = len(self.negatives.rows)
            inside = (columns >= 0) & (columns < size)
            if mask is None or size == 0:
                return inside
            return inside & mask.gather(1, columns.clamp(0, size - 1))
        own = choice.columns
        if mask is not None:
            own = own.masked_fill(~mask, BEYOND)
        own = own.sort(1).values
        place = torch.searchsorted(own, columns.contiguous()).clamp_(max=own.shape[1] - 1)
        return own.gather(1, place) == columns


def _placed(batch: ContrastiveBatch, part: Negatives) -> _Part:
    """Find where the pool lies: this rank's keys are some of the gathered ones."""
    return _Part(part, *batch.place_of(part.rows))


def _check_attraction(before: list[_Part], parts: list[_Part]) -> None:
    """Raise ``ValueError`` if a tier reads a pool of which an earlier one attracts, or vice versa.

    Args:
        before: Of earlier tiers.
        parts: Of one tier.
    """
    for one, other in itertools.product(before, parts):
        attracted = one.negatives.attracted is not None or other.negatives.attracted is not None
        if attracted and one.pool and one.pool == other.pool:
            raise ValueError(
                f"hierarchical: two tiers choose from one pool, {one.pool!r}, and one of them "
                f"attracts rows that the other may push away; let it decide for both: "
                f"false_negatives(source=hierarchical(…))"
            )


def _without_repeats(parts: list[_Part]) -> list[Negatives]:
    """Return the negatives of ``parts``, each row once for an anchor, in the order of the parts.

    Whole pools stay whole, since they are streamed; what they hold is left out of the others.
    """
    wholes = [n for n, part in enumerate(parts) if part.whole]
    wholes.sort(key=lambda n: -len(parts[n].negatives.rows))
    others = [n for n, part in enumerate(parts) if not part.whole]
    kept: dict[int, _Part] = {}
    for number in (*wholes, *others):
        remaining = _beyond(list(kept.values()), parts[number])
        if remaining is not None:
            kept[number] = remaining
    return [kept[number].negatives for number in sorted(kept)]


def _beyond(kept: list[_Part], part: _Part) -> _Part | None:
    """Return what ``part`` adds to ``kept``; None if that is nothing."""
    for other in kept:
        mixed = any(isinstance(p.negatives.choice, Mixtures) for p in (part, other))
        if mixed or not part.pool or other.pool != part.pool:
            continue
        if part.negatives.log_weight is not None or other.negatives.log_weight is not None:
            raise ValueError(
                "hierarchical: two tiers choose from one pool and one of them weighs its rows "
                "(correction=True), so the weight of a row in both is not defined; leave the "
                "correction out, or draw once, uniform(…, source=hierarchical(…))"
            )
        within = other.first <= part.first and (
            part.first + len(part.negatives.rows) <= other.first + len(other.negatives.rows)
        )
        if other.whole and within:
            return None
        part = replace(part, negatives=part.negatives.masked(~other.chooses(part.columns())))
    return part


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``hierarchical``."""
    yield SamplerSpec(
        "hierarchical",
        Hierarchical,
        "several samplers side by side",
        "Wang et al. 2020, arXiv:1912.06798",
    )
