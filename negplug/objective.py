"""The base class of objectives: how positives and negatives become a loss."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from torch import Tensor, nn

from negplug.batch import ContrastiveBatch
from negplug.negatives import Negatives

if TYPE_CHECKING:
    from negplug.provenance import PluginInfo


class Objective(nn.Module, abc.ABC):
    """Turns positives and negatives into a loss per anchor.

    Attributes:
        expression: The expression it was built from.
        provider: The plugin it came from, blamed for its errors.
    """

    expression: str = ""
    provider: PluginInfo | None = None

    @abc.abstractmethod
    def forward(self, batch: ContrastiveBatch, negatives: Negatives, temperature: float) -> Tensor:
        """Return the loss of each anchor, ``[N]``.

        An anchor without a positive or without a negative has loss 0, with its graph kept.
        """

    def check_partition(self, negatives: Negatives) -> None:
        """Raise ``ValueError`` if the negatives do not estimate the denominator."""
        if negatives.estimator != "partition":
            raise ValueError(
                f"{self}: needs negatives that estimate the denominator, got the "
                f"{negatives.estimator!r} estimator"
            )

    def __str__(self) -> str:
        return self.expression or type(self).__name__
