"""What a treated recipe logs where it does not train: the host's own loss.

Early stopping, the choice of checkpoints and sweeps compare runs by what the recipe logs. A loss
over other negatives is another quantity: with a few of them it is smaller, whatever was learnt.
So in validation the recipe gets the host's own value under its own name, and the treated one is
logged beside it, as ``negplug/LOSS/treated_loss``.

Outside ``fit`` (``validate``, ``test`` and ``predict`` of any Trainer) the model is not treated at
all, so that the same name has the same meaning there; a log line says so.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from negplug.contract.adapter import Metadata
from negplug.hosts.injection import Injection

logger = logging.getLogger("negplug")


class EvaluationMixin:
    """The part of ``NegativeControl`` that is about validation.

    Attributes:
        injection: The handle of the treated model, if there is one.
    """

    injection: Injection | None

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Have the recipe get the host's own losses."""
        self._evaluate(True)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Say what labels the batch has; its indexes would be those of another data set."""
        if self.injection is not None:
            for site in self.injection.sites:
                self.injection.losses[site.name].provide(Metadata(labels=site.labels(batch)))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Log the treated loss, the mean over its calls of the batch, beside the host's."""
        if self.injection is None:
            return
        for name, treated in self.injection.losses.items():
            values, rows = treated.take_evaluations()
            if values:
                mean = torch.stack(values).mean()
                metric = f"negplug/{name}/treated_loss"
                pl_module.log(metric, mean, batch_size=rows, sync_dist=True)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Have training get the treated losses."""
        self._evaluate(False)

    def _evaluate(self, evaluating: bool) -> None:
        if self.injection is not None:
            for treated in self.injection.losses.values():
                treated.evaluating = evaluating
                treated.take_evaluations()


def say_untreated(trainer: Any, stage: str) -> None:
    """Log that a stage outside ``fit`` runs the host's own loss."""
    if trainer.is_global_zero:
        logger.info(
            "negplug treats the losses of fit alone: %s runs the host's own, as validation inside "
            "fit logs them",
            getattr(stage, "value", stage),
        )
