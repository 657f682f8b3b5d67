"""The base class of objectives: how positives and negatives become a loss."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.contract.provenance import blaming
from negplug.kernels.precision import not_inference

if TYPE_CHECKING:
    from negplug.contract.provenance import PluginInfo


class Objective(nn.Module, abc.ABC):
    """Turns positives and negatives into a loss per anchor.

    One that remembers something across steps hands what it saw to :meth:`hold`, implements
    :meth:`update` and keeps its memory where ``state_dict`` finds it.

    Attributes:
        expression: The expression it was built from.
        provider: The plugin it came from, blamed for its errors.
        wants_indexes: Whether it uses the data set index of each sample, so that a recipe which
            does not hand them over is watched for them.
    """

    expression: str = ""
    provider: PluginInfo | None = None
    wants_indexes: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[dict[str, Any]] = []

    @abc.abstractmethod
    def forward(self, batch: ContrastiveBatch, negatives: Negatives, temperature: float) -> Tensor:
        """Return the loss of each anchor, ``[N]``.

        An anchor without a positive or without a negative has loss 0, with its graph kept.
        """

    @property
    def updates(self) -> bool:
        """Whether it remembers anything across steps."""
        return type(self).update is not Objective.update

    def update(self, seen: dict[str, Any]) -> None:
        """Take in a training step; by default nothing is remembered.

        Args:
            seen: What :meth:`forward` held, detached.
        """

    def hold(self, seen: dict[str, Any]) -> None:
        """Keep what a training step saw until its backward pass is over."""
        self._pending.append(seen)

    def flush(self) -> None:
        """Apply what is held."""
        pending, self._pending = self._pending, []
        for seen in pending:
            with blaming(self.provider, "update()"), not_inference():
                self.update(seen)

    def drop(self) -> None:
        """Drop what is held: another state is about to be loaded."""
        self._pending.clear()

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ``ValueError`` if an extra state cannot be loaded; by default any can."""

    def check_partition(self, negatives: Negatives) -> None:
        """Raise ``ValueError`` if the negatives do not estimate the denominator."""
        if negatives.estimator != "partition":
            raise ValueError(
                f"{self}: needs negatives that estimate the denominator, got the "
                f"{negatives.estimator!r} estimator"
            )

    def __str__(self) -> str:
        return self.expression or type(self).__name__
