"""The contract between the core and the adapters of hosts.

An adapter finds the *loss sites* of a model: the places where the host turns embeddings into a
contrastive loss. A site can be treated, which reroutes that one computation and leaves the rest
of the host's step alone, and restored to the very objects it had.
"""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.objective import Objective


@dataclass(frozen=True)
class Metadata:
    """What is known of a step's samples beside their embeddings.

    Attributes:
        indexes: ``[B]`` int64, data set indexes.
        labels: ``[B]``, or any other form of :func:`negplug.contract.labels.as_labels`.
        unindexed: Why there are no indexes.
        supervised: Whether the host takes samples of one label for positives.
        unlabeled: Why there are no labels.
    """

    indexes: Tensor | None = None
    labels: Tensor | None = None
    unindexed: str = ""
    supervised: bool = False
    unlabeled: str = ""

    def of(self, rows: int) -> dict[str, Any]:
        """Return the arguments of a batch whose views have ``rows`` rows, one per sample.

        Rows that are no samples (parts of images, say) have no indexes and no labels.
        """
        indexes, unindexed = _of_rows(self.indexes, self.unindexed, rows)
        labels, unlabeled = _of_rows(self.labels, self.unlabeled, rows)
        return {
            "indexes": indexes,
            "labels": labels,
            "unindexed": unindexed,
            "unlabeled": unlabeled,
        }


def _of_rows(values: Tensor | None, why_none: str, rows: int) -> tuple[Tensor | None, str]:
    """Return what is known of ``rows`` rows, and why nothing is."""
    if values is None or len(values) == rows:
        return values, why_none
    return None, f"its {rows} rows are not the {len(values)} samples of the batch"


class Contrast(Protocol):
    """What a treated site calls in place of the host's arithmetic.

    Attributes:
        temperature: The temperature that was asked for, for hosts that scale the loss by it; None
            inherits the host's.
    """

    temperature: float | None

    @property
    def metadata(self) -> Metadata:
        """What is known of this step's samples beside their embeddings."""

    def knowing(self, metadata: Metadata) -> AbstractContextManager[None]:
        """Return a context inside which ``metadata`` is what is known of the samples.

        For sites that find the indexes and labels of a step themselves.
        """

    def __call__(
        self, batch: ContrastiveBatch, *, objective: Objective, temperature: float
    ) -> Tensor:
        """Return the mean loss of ``batch``.

        Args:
            batch: The batch as the host forms it.
            objective: The host's form of the loss, used unless another was asked for.
            temperature: The host's temperature at this moment, likewise.
        """


class LossSite(abc.ABC):
    """One contrastive loss of a model.

    Attributes:
        name: What ``target=`` calls it.
        host: Host, version and loss, for messages.
        queue_size: Size of the host's own queue of negatives, if it has one.
        reads_metadata: Whether the treatment itself finds the indexes and labels of a step, as it
            can where the host hands them to its ``training_step``.
    """

    name: str
    host: str
    queue_size: int | None = None
    reads_metadata: bool = False

    @abc.abstractmethod
    def treat(self, contrast: Contrast) -> None:
        """Reroute the loss to ``contrast``.

        Raises:
            ValueError: If this loss, as configured, cannot be treated; says why.
        """

    def labels(self, batch: Any) -> Tensor | None:
        """Return the labels ``[B]`` in what the host's loader gives, by default none.

        Raises:
            ValueError, TypeError: If what is there are no labels; says what was found.
        """
        return None

    def metadata(self, batch: Any) -> Metadata:
        """Return what the host's loader says of the samples: labels, or why there are none."""
        try:
            return Metadata(labels=self.labels(batch))
        except (TypeError, ValueError) as error:
            return Metadata(unlabeled=str(error))

    @abc.abstractmethod
    def restore(self) -> None:
        """Put back exactly what was there before :meth:`treat`."""


@dataclass(frozen=True)
class MethodReport:
    """What can be done to one method of an installed host.

    Attributes:
        method: The host's name for it.
        treatable: Whether its negatives can be controlled.
        note: How, or why not.
    """

    method: str
    treatable: bool
    note: str
