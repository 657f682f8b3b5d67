"""The contract between the core and the adapters of hosts.

An adapter finds the *loss sites* of a model: the places where the host turns embeddings into a
contrastive loss. A site can be treated, which reroutes that one computation and leaves the rest
of the host's step alone, and restored to the very objects it had.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
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
        by_place: Whether rows are told apart by their place in the batch alone, so that a sample
            that is in it twice is what the host takes it for; no sampler asks for indexes then.
        unlabeled: Why there are no labels.
        handed_over: Whether the recipe has said the indexes itself, which are believed.
        labels_handed_over: Likewise of the labels.
    """

    indexes: Tensor | None = None
    labels: Tensor | None = None
    unindexed: str = ""
    supervised: bool = False
    by_place: bool = False
    unlabeled: str = ""
    handed_over: bool = False
    labels_handed_over: bool = False

    def of(self, rows: int) -> dict[str, Any]:
        """Return the arguments of a batch whose views have ``rows`` rows, one per sample.

        Rows that are no samples (parts of images, say) have no indexes and no labels.
        """
        indexes, unindexed = _of_rows(self.indexes, self.unindexed, rows)
        labels, unlabeled = _of_rows(self.labels, self.unlabeled, rows)
        return {
            "indexes": None if self.by_place else indexes,
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

    def together(self, *given: Any) -> AbstractContextManager[None]:
        """Return a context inside which a rank that fails makes every rank raise.

        For sites, around all that they do with ``given``, the arguments of the host's loss.
        """

    def returned(
        self, own: Callable[[], Tensor], treated: Callable[[], Tensor], learns: bool = True
    ) -> Tensor:
        """Return what the host gets: the treated loss, or its own in an evaluation.

        Early stopping and sweeps then compare the host's loss, whatever the sampler. It is an
        evaluation where a Trainer validates and, elsewhere, where a module in eval mode is called
        without gradient. A site that calls this object alone is treated there too.

        Args:
            own: Computes the host's own loss, as if it were not treated.
            treated: Computes the treated loss, by calling this object. A ``functools.partial`` of
                the arguments of the host's loss can be computed for several micro-batches at once.
            learns: Whether the module that is treated is in training mode.
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
        rows_by_view: Whether what its loss is given may hold the rows of several views, view after
            view.
        shared: Names of arguments of its loss that are not of the batch, such as a queue.
        own_indexes: Finds the indexes ``[R]`` that the host itself reads in a batch of its loader,
            None where there are none; a plain function, which worker processes call. None for a
            host whose batches bring no indexes.
        past_keys: Whether its keys are past ones, of a memory that the host keeps. A sampler that
            remembers keys would remember them over and over, and is refused.
    """

    name: str
    host: str
    queue_size: int | None = None
    reads_metadata: bool = False
    rows_by_view: bool = False
    shared: tuple[str, ...] = ()
    past_keys: bool = False
    own_indexes: Callable[[Any], Tensor | None] | None = None

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
        contrastive: Whether a method that is not treatable has negatives all the same. One that has
            may not be left untreated unnoticed.
    """

    method: str
    treatable: bool
    note: str
    contrastive: bool = False
