"""Diagnostics as Lightning callbacks: ``GradientSNR`` and ``RepresentationDiagnostics``.

These are their behaviours, on either Lightning and without importing one;
:mod:`negplug.hosts.trainer.lightnings` joins them with the ``Callback`` class in use. They log
through the module, so to whatever logger the recipe has.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from negplug.diagnostics.clusters import intra_class_distance, silhouette, silhouette_score
from negplug.diagnostics.embedding import embed, labelled
from negplug.diagnostics.gradients import GradientMoments, all_finite
from negplug.hosts.trainer import several
from negplug.hosts.trainer.autoload import DIAGNOSTICS_VARIABLE, asked_diagnostics
from negplug.hosts.trainer.ownership import Ownership
from negplug.hosts.trainer.private import logs_now
from negplug.hosts.trainer.strategies import sharding_strategy
from negplug.kernels.distributed import everyones
from negplug.kernels.torch_private import unscales_itself
from negplug.loss.terms import insist_on_same_diagnostics

logger = logging.getLogger("negplug")

_SNR_KEY = "negplug.gradient_snr"

_ENCODERS = ("backbone", "encoder")
"""Where hosts keep the encoder: Lightly and solo-learn, solo-learn 1.0.2."""


class GradientSNRMixin:
    """Logs the gradients' signal-to-noise ratio, see :mod:`negplug.diagnostics.gradients`.

    ``negplug/gradient_snr`` and ``negplug/gradient_snr_std`` are its mean and standard deviation
    over all parameters that an optimizer trains. Gradients are those of the optimizer's step:
    accumulated, averaged over ranks, unscaled, not yet clipped. A step that AMP's ``GradScaler``
    skips is left out. The moments are part of the checkpoint.

    Args:
        decay: β, 0 < β ≤ 1; the moments are over about 1/(1 − β) steps.
        from_environment: Set by negplug itself when ``NEGPLUG_DIAGNOSTICS`` asks for the callback.

    Raises:
        ValueError: If ``decay`` is out of range, or ``NEGPLUG_DIAGNOSTICS`` asks for it too.

    Example:
        >>> trainer = Trainer(callbacks=[GradientSNR()])
    """

    def __init__(self, decay: float = 0.99, *, from_environment: bool = False) -> None:
        super().__init__()
        refuse_twice("gradient_snr", self, from_environment)
        self.moments = GradientMoments(decay)
        self._from_environment = from_environment
        self._owner = Ownership()
        self._begun = self._stepped = False

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints, whatever its arguments.

        Another one until a Trainer has set it up: see :func:`several.state_key`.
        """
        return _SNR_KEY if self._begun else several.key_of_none(_SNR_KEY)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Start afresh in a fit of another model than before.

        Raises:
            RanksError: If the environment asks for other diagnostics on another rank.
            ValueError: If the Trainer has a second one.
        """
        self._begun = True
        if stage == "fit":
            refuse_second(GradientSNRMixin, trainer)
            if self._from_environment:
                insist_on_same_diagnostics()
            if self._owner.has_model and not self._owner.is_of(pl_module):
                self.moments = GradientMoments(self.moments.decay)
            self._owner.take(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remember whose gradients they were."""
        if stage == "fit":
            self._owner.take(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse strategies that hide or shard gradients.

        Raises:
            ValueError: If the strategy is one of them.
        """
        if strategy := sharding_strategy(trainer):
            raise ValueError(
                f"GradientSNR does not see whole gradients under {strategy}; use a single device "
                f"or DDP"
            )

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: Any, optimizer: Any, *_: Any
    ) -> None:
        """Take in the gradients of this optimizer's own parameters."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        named = [each for each in pl_module.named_parameters() if id(each[1]) in own]
        self._stepped = True
        scaler, scale = getattr(trainer.precision_plugin, "scaler", None), 1.0
        if scaler is not None:
            if not all_finite(named):
                return
            # A fused optimizer undoes the scaling itself, in its step.
            if unscales_itself(optimizer):
                scale = scaler.get_scale()
        self.moments.update(named, scale)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log after the steps that Lightning hands to its loggers, as its own callbacks do."""
        stepped, self._stepped = self._stepped, False
        if stepped and logs_now(trainer):
            snr = self.moments.snr()
            if snr is not None:  # the first step has no spread
                pl_module.log("negplug/gradient_snr", snr.mean)
                pl_module.log("negplug/gradient_snr_std", snr.std)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments: tensors and built-in types only."""
        return self.moments.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: If it was written with another decay.
        """
        self.moments.load_state_dict(state)


class RepresentationDiagnosticsMixin:
    """Logs how well classes cluster, see :mod:`negplug.diagnostics.clusters`.

    In a validation epoch it embeds labelled images of the validation loader (of several, the
    last: Lightly's kNN evaluations put training images first), as many of each batch, and logs
    ``negplug/intra_class_distance`` and ``negplug/silhouette`` of all ranks' features. Batches
    are ``(images [n, …], labels [n], …)``; images of a label below 0 have no class.

    Args:
        every: After every so many training epochs.
        max_samples: Number of images, over all ranks.
        encoder: Name of the module's attribute that maps images to features ``[n, …]``; by
            default ``backbone``, or else ``encoder`` (solo-learn 1.0.2).
        from_environment: Set by negplug itself when ``NEGPLUG_DIAGNOSTICS`` asks for the callback:
            a recipe without an encoder or labelled validation images is then left alone.

    Raises:
        ValueError: If an argument is out of range, ``NEGPLUG_DIAGNOSTICS`` asks for it too or, in
            training, there is no such encoder or are no labelled validation images.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> trainer = Trainer(callbacks=[RepresentationDiagnostics(every=10)])
    """

    def __init__(
        self,
        every: int = 1,
        max_samples: int = 2000,
        encoder: str | None = None,
        *,
        from_environment: bool = False,
    ) -> None:
        super().__init__()
        refuse_twice("representation", self, from_environment)
        for name, number in (("every", every), ("max_samples", max_samples)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        silhouette_score()  # if it is missing, now and not after an epoch
        self.every = every
        self.max_samples = max_samples
        self.encoder = encoder
        self._from_environment = from_environment
        self._left_alone = False
        self._due = False
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Insist that all ranks measure: they exchange their features.

        Raises:
            RanksError: If the environment asks for other diagnostics on another rank.
            ValueError: If the Trainer has a second one.
        """
        if stage == "fit":
            refuse_second(RepresentationDiagnosticsMixin, trainer)
            if self._from_environment:
                insist_on_same_diagnostics()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Insist on an encoder and a validation epoch."""
        self._left_alone = False
        if not trainer.enable_validation:
            self._refuse(trainer, pl_module, "has no validation loader or no validation_step")
        elif self._encoder(pl_module) is None:
            names = " or ".join(map(repr, self._names()))
            self._refuse(trainer, pl_module, f"has no attribute {names} that is a module")

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin anew."""
        self._features, self._labels = [], []
        epoch = trainer.current_epoch + 1
        self._due = not (trainer.sanity_checking or self._left_alone or epoch % self.every)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Embed this batch's share of the images."""
        sizes = trainer.num_val_batches
        if not self._due or dataloader_idx != len(sizes) - 1:
            return
        images, labels = labelled(batch)
        encoder = self._encoder(pl_module)
        if images is None or labels is None or encoder is None:
            self._due = False
            what = "has validation batches that are no (images [n, …], labels [n], …)"
            self._refuse(trainer, pl_module, what)
            return
        # Of every batch: loaders of image folders go through class after class.
        quota = math.ceil(self.max_samples / trainer.world_size)
        wanted = quota - sum(map(len, self._labels))
        if math.isfinite(sizes[-1]):
            wanted = quota * (batch_idx + 1) // sizes[-1] - quota * batch_idx // sizes[-1]
        if wanted > 0:
            self._features.append(embed(encoder, images[:wanted]))
            self._labels.append(labels[:wanted].cpu())

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the measures of all ranks' features."""
        if trainer.sanity_checking or self._left_alone or not self._due:
            return
        # As objects: the ranks' last batches may differ in size.
        shares = everyones((self._features, self._labels))
        self._features, self._labels = [], []
        features = [part for share in shares for part in share[0]]
        labels = torch.cat([part for share in shares for part in share[1]] or [torch.empty(0)])
        known = (labels >= 0).nonzero()[: self.max_samples, 0]
        classes = len(torch.unique(labels[known]))
        if not 2 <= classes < len(known):
            what = f"has {len(known)} labelled validation images of {classes} classes"
            self._refuse(trainer, pl_module, f"{what}, where at least two classes are needed")
            return
        rows, names = torch.cat(features)[known], labels[known]
        measured = {
            "negplug/intra_class_distance": intra_class_distance(rows, names),
            "negplug/silhouette": silhouette(rows, names),
        }
        pl_module.log_dict(measured, sync_dist=True)  # equal on all ranks

    def _names(self) -> tuple[str, ...]:
        return _ENCODERS if self.encoder is None else (self.encoder,)

    def _encoder(self, module: nn.Module) -> nn.Module | None:
        found = (getattr(module, name, None) for name in self._names())
        return next((encoder for encoder in found if isinstance(encoder, nn.Module)), None)

    def _refuse(self, trainer: Any, module: nn.Module, what: str) -> None:
        model = type(module).__name__
        if not self._from_environment:
            raise ValueError(
                f"{model} {what}; RepresentationDiagnostics embeds labelled validation images"
            )
        self._left_alone = True
        if trainer.is_global_zero:
            logger.warning("negplug measures no representations: %s %s", model, what)


def refuse_twice(name: str, callback: object, from_environment: bool) -> None:
    """Refuse a callback of the recipe that the environment asks for too: it would log twice."""
    if not from_environment and name in asked_diagnostics():
        raise ValueError(
            f"{DIAGNOSTICS_VARIABLE} names {name!r} and the recipe passes a "
            f"{type(callback).__name__} callback too; change the variable or drop the callback"
        )


def refuse_second(kind: type, trainer: Any) -> None:
    """Refuse two diagnostics of a kind in one Trainer: both would log under the same names."""
    names = [type(each).__name__ for each in trainer.callbacks if isinstance(each, kind)]
    if len(names) > 1:
        raise ValueError(
            f"the Trainer's callbacks hold {names[0]} {len(names)} times, and each would log under "
            f"the same names; drop all but one"
        )
