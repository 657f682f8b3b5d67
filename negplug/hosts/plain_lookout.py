"""Looks out for untreated contrastive losses in a loop without a Trainer.

Such a loop says nothing of its steps: the treated losses tell of them, and optimizers do. A loop
that puts another criterion in the place of a treated one, after some epochs say, goes on untreated.
Nothing tells of that but the treated losses' silence, so they are looked out for again then.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from negplug.hosts.graph_parameters import parameters_of
from negplug.hosts.lookout import STEPS, Lookout
from negplug.hosts.treated_loss import TreatedLoss
from negplug.kernels.torch_private import outside_graphs
from negplug.loss import optimizers

_listening: weakref.WeakSet[PlainLookout] = weakref.WeakSet()


class PlainLookout(Lookout):
    """Watches the first steps of a loop, and those that go by without a treated loss.

    What trains none of the parameters that a treated loss trains is another training's.

    Args:
        model: The model whose losses are treated.
        treated: These losses, by name.
        ignore: As of :class:`Lookout`.
    """

    def __init__(
        self, model: nn.Module, treated: Mapping[str, TreatedLoss], ignore: Collection[str]
    ) -> None:
        self._treated = list(treated.values())
        self._begun: dict[TreatedLoss, int] = {}
        self._trained: set[Tensor] = set()
        self._silent = 0
        for each in self._treated:
            each.watcher = self._after_treated
        super().__init__(model, treated, ignore)
        _listening.add(self)

    def end_step(self) -> None:
        """Do nothing: the treated losses tell of their steps."""

    def stop(self) -> None:
        """Watch no further steps, whatever becomes of the treated losses."""
        _listening.discard(self)
        for each in self._treated:
            each.watcher = None
        super().stop()

    def after_optimizer(self, optimizer: Any) -> None:
        """Take note that an optimizer has stepped."""
        if self._trained.isdisjoint(optimizers.parameters(optimizer)):
            return
        self._silent += 1
        if self._silent == STEPS:
            self.start()
        elif self._silent > STEPS and self.watches:
            if self._silent == 2 * STEPS:
                self.rest()
            self.check(self._trained)

    @outside_graphs
    def _after_treated(self, treated: TreatedLoss, loss: Tensor) -> None:
        self._silent = 0
        if not self.watches:
            return
        step = treated.loss.next_step
        if step - self._begun.setdefault(treated, step) >= STEPS:
            self.rest()
        self._trained |= parameters_of(loss)
        self.check(self._trained)

    @outside_graphs
    def _after_loss(self, module: nn.Module, given: Any, output: Tensor) -> None:
        super()._after_loss(module, given, output)
        self.check(self._trained)


def _after_step(optimizer: Any, *_: Any) -> None:
    for each in list(_listening):
        each.after_optimizer(optimizer)


register_optimizer_step_post_hook(_after_step)
