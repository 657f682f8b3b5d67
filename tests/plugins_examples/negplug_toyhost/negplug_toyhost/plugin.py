"""The plugin: ``PairLoss`` as a loss site, ``focal(gamma=…)`` as an objective, ``apart()``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from negplug import (
    AdapterSpec,
    Composer,
    ComposerSpec,
    Contrast,
    ContrastiveBatch,
    Epoch,
    LossSite,
    MethodReport,
    Negatives,
    Objective,
    ObjectiveSpec,
    hookimpl,
    make_objective,
)


class Focal(Objective):
    """InfoNCE, less of it where the positive is found already: (1 − e^{−L})^γ · L.

    Source: Lin et al. 2017, Focal loss for dense object detection, arXiv:1708.02002, equation 4.

    Args:
        gamma: γ ≥ 0; 0 is InfoNCE itself.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.infonce = make_objective("infonce()")

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        loss: Tensor = self.infonce(batch, negatives, temperature)
        return (1 - torch.exp(-loss)) ** self.gamma * loss


class Apart(Composer):
    """Samples that are neighbours in the data set meet as seldom as can be."""

    def compose(self, epoch: Epoch) -> Tensor:
        """Return every B-th sample of the data set, then every B-th from the second on."""
        batches = max(len(epoch.batches), 1)
        place = epoch.samples.argsort().argsort()
        return (place % batches * len(place) + place).argsort()


class PairLossSite(LossSite):
    """A ``PairLoss`` inside a module, treated by shadowing its ``forward``."""

    host = "toyhost PairLoss"

    def __init__(self, name: str, criterion: Any) -> None:
        self.name = name
        self._criterion = criterion

    def treat(self, contrast: Contrast) -> None:
        """Reroute the criterion to ``contrast``, in the host's form."""

        def forward(queries: Tensor, keys: Tensor) -> Tensor:
            ids = torch.arange(len(queries))
            batch = ContrastiveBatch.from_ids(
                normalize(queries, dim=1), ids, normalize(keys, dim=1), ids
            )
            return contrast(
                batch,
                objective=make_objective("infonce()"),
                temperature=self._criterion.temperature,
            )

        vars(self._criterion)["forward"] = forward

    def restore(self) -> None:
        """Uncover the class's own ``forward``."""
        del vars(self._criterion)["forward"]


def find_sites(model: nn.Module) -> Iterator[LossSite]:
    """Yield every ``PairLoss`` of ``model``."""
    host = sys.modules.get("negplug_toyhost.host")
    if host is None:
        return  # a model of a host that is not loaded cannot exist
    for name, module in model.named_modules():
        if type(module) is host.PairLoss:
            yield PairLossSite(name, module)


def report_methods() -> Iterator[MethodReport]:
    """Yield the one method."""
    yield MethodReport("PairLoss", True, "every sampler")


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the adapter."""
    yield AdapterSpec("toyhost", find_sites, report_methods, "the one loss of toyhost")


@hookimpl
def negplug_composers() -> Iterable[ComposerSpec]:
    """Offer ``apart``."""
    yield ComposerSpec("apart", Apart, "neighbours in the data set do not meet")


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``focal``."""
    yield ObjectiveSpec("focal", Focal, "InfoNCE, less of it where it is small", "Lin et al. 2017")
