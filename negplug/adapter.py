"""The contract between the core and the adapters of hosts.

An adapter finds the *loss sites* of a model: the places where the host turns embeddings into a
contrastive loss. A site can be treated, which reroutes that one computation and leaves the rest
of the host's step alone, and restored to the very objects it had.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from negplug.batch import ContrastiveBatch
from negplug.objective import Objective


class Contrast(Protocol):
    """What a treated site calls in place of the host's arithmetic."""

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
    """

    name: str
    host: str

    @abc.abstractmethod
    def treat(self, contrast: Contrast) -> None:
        """Reroute the loss to ``contrast``.

        Raises:
            ValueError: If this loss, as configured, cannot be treated; says why.
        """

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
