"""The base class of objectives: how positives and negatives become a loss."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.contract.part import Part


class Objective(Part, abc.ABC):
    """Turns positives and negatives into a loss per anchor.

    An objective that remembers something across steps passes what it saw to :meth:`hold`,
    implements :meth:`update` and declares its memory by :class:`negplug.contract.state.Stateful`.

    Attributes:
        several_positives: Whether it pulls an anchor towards all of its positives, also those that
            a sampler attracts. If False, it is refused beside a sampler that attracts.
        takes_streams: Whether it needs only the log-sum-exp of its negatives. They may then go
            around a ring of ranks, see :mod:`negplug.contract.streaming`.
    """

    several_positives: bool = True
    takes_streams: bool = False

    @abc.abstractmethod
    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss of each anchor, ``[N]``.

        An anchor without a positive or without a negative has loss 0, with its graph kept.

        Args:
            batch: Anchors, keys and positives, those that the sampler attracts behind the others.
            negatives: One entry for each pool, all of one estimator.
            temperature: τ > 0.
        """

    def check_partition(self, negatives: Sequence[Negatives]) -> None:
        """Raise ``ValueError`` if the negatives do not estimate the denominator."""
        if negatives[0].estimator != "partition":
            raise ValueError(
                f"{self}: needs negatives that estimate the denominator, got the "
                f"{negatives[0].estimator!r} estimator"
            )

    def __str__(self) -> str:
        return self.expression or type(self).__name__
