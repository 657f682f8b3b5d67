"""``synthetic(…)``: mixtures of an anchor's hardest negatives, and noisy copies, as more negatives.

Mixtures: Kalantidis et al., "Hard negative mixing for contrastive learning" (MoCHi, 2020,
arXiv:2010.01028, section 4). From the N hardest negatives n of anchor q, s and s' points

    h  = (α n_i + (1 − α) n_j) / ‖·‖,    α ~ U(0, 1),    i ≠ j        (num_mixed = s)
    h' = (β q + (1 − β) n_j) / ‖·‖,      β ~ U(0, ½)                  (num_mixed_with_anchor = s')

are drawn for each anchor anew, and never exist as rows (:mod:`negplug.samplers.common.mixtures`).

Noise: Giakoumoglou & Stathaki, "SynCo" (2024, arXiv:2410.02401), on the sphere,

    n' = (n + σ ε) / ‖·‖,    ε ~ N(0, I)                              (num_noisy)

but here n is drawn uniformly from the source and n' serves all anchors; it keeps the id of n, so
an anchor's own rows stay excluded.

Synthetic negatives are constants: the loss has a gradient in the anchor that is compared with
them, none in what they are made of. The rows of MoCHi's queue have none, and SynCo's code detaches
the anchor's share β q too; that rows of the batch are detached as well is our choice, so that a
mixture pushes alike whatever its source. They count once, whatever the source's log weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer, check_number, check_room
from negplug.contract.negatives import Negatives, Whole, total_counts
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.random.numbers import RandomNumbers
from negplug.kernels.unit import unit_rows
from negplug.samplers.common.availability import Availability
from negplug.samplers.common.choosing import rows_offered, serving_first
from negplug.samplers.common.mixtures import mixed_pairs, mixed_with_anchors
from negplug.samplers.hard import hardest
from negplug.samplers.in_batch import InBatch

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite


class Synthetic(NegativeSampler):
    """The source's negatives, and synthetic ones beside them.

    An anchor with a single negative gets no mixture of two, one with none no mixture at all.

    Args:
        num_mixed: s ≥ 0, mixtures of two hard negatives for each anchor (MoCHi: 1024).
        num_mixed_with_anchor: s' ≥ 0, mixtures of a hard negative and the anchor (MoCHi: 128).
        num_hardest: N ≥ 2, how many of an anchor's negatives are hard (MoCHi: 1024); in a ragged
            batch, or while a memory fills, all of them if there are fewer. Needed for mixtures.
        num_noisy: Noisy copies of rows, drawn with replacement, the same for all anchors.
        sigma: σ > 0, the standard deviation of each coordinate's noise (SynCo: 0.01). Needed for
            noisy copies.
        source: Whose negatives to mix or perturb; the batch's by default.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, nothing is asked for, or ``num_hardest`` or
            ``sigma`` is missing, useless, or more than the source can ever hold.
    """

    def __init__(
        self,
        num_mixed: int = 0,
        num_mixed_with_anchor: int = 0,
        num_hardest: int | None = None,
        num_noisy: int = 0,
        sigma: float | None = None,
        source: NegativeSampler | None = None,
    ) -> None:
        super().__init__()
        self.num_mixed = check_integer("synthetic", "num_mixed", num_mixed, 0)
        self.num_mixed_with_anchor = check_integer(
            "synthetic", "num_mixed_with_anchor", num_mixed_with_anchor, 0
        )
        self.num_noisy = check_integer("synthetic", "num_noisy", num_noisy, 0)
        mixtures = num_mixed + num_mixed_with_anchor
        if not mixtures + num_noisy:
            raise ValueError(
                "synthetic: nothing is asked for; give num_mixed, num_mixed_with_anchor or "
                "num_noisy"
            )
        _together("num_hardest", num_hardest, mixtures, "num_mixed or num_mixed_with_anchor")
        _together("sigma", sigma, num_noisy, "num_noisy")
        if num_hardest is not None:
            check_integer("synthetic", "num_hardest", num_hardest, 2)
        if sigma is not None and not check_number("synthetic", "sigma", sigma, 0, math.inf):
            raise ValueError("synthetic: sigma must be above 0, got 0")
        self.num_hardest, self.sigma = num_hardest, sigma
        self.source = InBatch() if source is None else source
        if not isinstance(self.source, NegativeSampler):
            raise TypeError(f"synthetic: source must be a sampler, got {source!r}")
        self.availability = None
        if num_hardest is not None:
            self.availability = Availability("synthetic", num_hardest, self.source, "num_hardest")

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """What the source can offer and all synthetic ones."""
        known = self.source.most
        made = self.num_mixed + self.num_mixed_with_anchor + self.num_noisy
        return None if known is None else known + made

    def fit_host(self, site: LossSite | None) -> None:
        """Check N against what the source took from the host."""
        if self.availability is not None:
            self.availability.check_limit(self.source)

    def sample(self, batch: ContrastiveBatch) -> tuple[Negatives, ...]:
        """Return the source's negatives and synthetic ones behind them; none from no rows.

        Raises:
            ValueError: If the source's negatives are no rows of a pool; if the first training
                batch, taken for a full one, has fewer than N for every anchor; or if rows are to
                be perturbed that are not one whole pool for all anchors.
        """
        offered = rows_offered("synthetic", self.source, batch)
        if batch.first_step:
            self._check_room(batch)
        random = self.random(batch)
        made = []
        hard = self._hard(batch, offered)
        if hard is not None:
            if self.num_mixed and hard.width > 1:
                made.append(mixed_pairs(hard, self.num_mixed, random))
            if self.num_mixed_with_anchor:
                number = self.num_mixed_with_anchor
                made.append(mixed_with_anchors(batch.anchors, hard, number, random))
        if self.sigma is not None:
            if len(offered) > 1 or not isinstance(offered[0].choice, Whole):
                raise ValueError(
                    f"synthetic: num_noisy needs a source that is one whole pool for all anchors; "
                    f"{self.source} is not"
                )
            if len(offered[0].rows):
                made.append(_noisy(offered[0], self.num_noisy, self.sigma, random))
        return (*offered, *made)

    def _check_room(self, batch: ContrastiveBatch) -> None:
        """Raise ``ValueError`` if there is no room for what is made for a batch."""
        anchors, width = batch.anchors.embeddings.shape
        # Of a mixture two columns and two coefficients, of a copy its coordinates.
        bytes_each = {
            "num_mixed": 32 * anchors,
            "num_mixed_with_anchor": 32 * anchors,
            "num_noisy": 8 * width,
        }
        for name, size in bytes_each.items():
            number, device = getattr(self, name), batch.anchors.embeddings.device
            check_room("synthetic", name, number, number * size, device)

    def _hard(self, batch: ContrastiveBatch, offered: tuple[Negatives, ...]) -> Negatives | None:
        """Return each anchor's hardest negatives, those that there are first; None if no rows."""
        if self.availability is None:
            return None
        wanted = self.availability.num_negatives
        some = any(len(part.rows) for part in offered)
        hard = hardest(batch, offered, wanted) if some else None
        if hard is not None and hard.mask is None and hard.width == wanted:
            # Every anchor has so many: none is counted.
            self.availability.check(wanted, batch.first_step)
        else:
            counts = functools.partial(total_counts, offered, batch.anchors)
            self.availability.exceeded(offered, counts, batch.first_step)
        return hard


def _together(name: str, value: float | None, number: int, user: str) -> None:
    if number and value is None:
        raise ValueError(f"synthetic: {user} needs {name}; give {name}=…")
    if not number and value is not None:
        raise ValueError(f"synthetic: {name}={value} is for {user}, which is 0; leave it out")


@torch.no_grad()
def _noisy(offered: Negatives, number: int, sigma: float, random: RandomNumbers) -> Negatives:
    """Return ``number`` noisy copies of rows of a whole pool, with the names of those rows."""
    pool = offered.rows.embeddings
    serves = offered.common_mask
    if serves is None:
        rows = random.integers(len(pool), number)
    else:
        rows = random.integers(serves.sum().clamp(min=1), number)
        rows = serving_first(serves)[rows]
    noise = random.normal((number, pool.shape[1]), pool.dtype)
    copies = offered.subset(rows)
    noisy = unit_rows(copies.rows.embeddings.add(noise, alpha=sigma))
    return replace(copies, rows=copies.rows.with_embeddings(noisy))


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``synthetic``."""
    yield SamplerSpec(
        "synthetic",
        Synthetic,
        "mixtures of hard negatives and noisy copies, added to the source's",
        "Kalantidis et al. 2020, arXiv:2010.01028",
    )
