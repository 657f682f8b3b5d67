"""What the samplers that choose among the negatives of a source have in common."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN, or_unknown
from negplug.contract.negatives import Mixtures, Negatives
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import look
from negplug.samplers.common.availability import Availability
from negplug.samplers.in_batch import InBatch

if TYPE_CHECKING:
    from negplug.contract.adapter import LossSite


class ChoosingSampler(NegativeSampler):
    """A sampler that takes M of its source's negatives for each anchor.

    Args:
        name: The sampler's name, for messages.
        num_negatives: M ≥ 1.
        source: The sampler among whose negatives to choose; the batch's by default.

    Attributes:
        source: That sampler; ``self.source(batch)`` returns its negatives, one entry for each pool.
        availability: ``availability.exceeded(offered, counts, batch.first_step)`` returns whether
            any anchor has more than M negatives. It raises if a full batch has fewer for all.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``num_negatives`` < 1, or more than the source can ever offer.
    """

    def __init__(self, name: str, num_negatives: int, source: NegativeSampler | None) -> None:
        super().__init__()
        self.source = InBatch() if source is None else source
        self.availability = Availability(name, num_negatives, self.source)
        self.num_negatives = num_negatives

    @property
    def most(self) -> int:  # type: ignore[override]
        """M."""
        return self.num_negatives

    def fit_host(self, site: LossSite | None) -> None:
        """Check M against what the source took from the host."""
        self.availability.check_limit(self.source)


def rows_offered(
    name: str, source: NegativeSampler, batch: ContrastiveBatch
) -> tuple[Negatives, ...]:
    """Return what ``source`` offers to the sampler ``name``, if one can choose among it.

    Raises:
        ValueError: If the source draws from the softmax, or its negatives are no rows of a pool.
    """
    offered: tuple[Negatives, ...] = source(batch)
    if offered[0].estimator != "partition":
        raise ValueError(f"{name}: {source} already draws from the softmax; choose before it does")
    if any(isinstance(part.choice, Mixtures) for part in offered):
        raise ValueError(
            f"{name}: the negatives of {source} are mixtures, no rows of a pool to choose among; "
            f"make synthetic(…) the outermost sampler"
        )
    return offered


def serving_first(serves: Tensor) -> Tensor:
    """Return the rows ``[K]`` of a pool, those in ``serves`` ``[K]`` bool before the others."""
    return torch.argsort(~serves, stable=True)


def labels_of(
    name: str, source: NegativeSampler, batch: ContrastiveBatch, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Return the labels of the anchors, ``[N]``, and of the rows of one pool, ``[K]``.

    In an evaluation, which may be one of other data, what is missing is unknown. A first batch of
    which every label is unknown is warned of: data without labels often have -1 in their place.

    Raises:
        ValueError: If either are unknown altogether in training.
    """
    anchors = batch.anchors
    if not batch.training:
        return or_unknown(anchors.labels, anchors.ids), or_unknown(rows.labels, rows.ids)
    if anchors.labels is None:
        raise ValueError(
            f'{name}: by="labels" needs the label of every sample, but '
            f"{batch.unlabeled or 'the loss got none'}; call it with labels=…, hand them to "
            f"provide(labels=…) of the injection, or train on a data set whose loader yields them"
        )
    if rows.labels is None:
        raise ValueError(
            f'{name}: by="labels" needs labels of the negatives too, but the rows of {source} '
            f"have none: this host's loss knows those of its anchors only"
        )
    if batch.first_step:
        look(f"{name}: no label", (anchors.labels == UNKNOWN).all(), lambda: _warn(name))
    return anchors.labels, rows.labels


def _warn(name: str) -> None:
    warnings.warn(
        f'{name}: by="labels" has nothing to go by, for every label of the first batch is '
        f"{UNKNOWN}, which is unknown; train on labelled data, or choose by something else",
        stacklevel=2,
    )
