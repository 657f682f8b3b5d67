"""What all methods share: settings, an encoder, a classifier beside it, a momentum encoder.

A training step of the base returns what every crop gave, in lists, and as its loss the online
classifier's cross-entropy on detached features; a method's own step adds its contrastive loss. A
batch is ``[indexes, crops, targets]``, a target of -1 being none.
"""

from __future__ import annotations

from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig
from solo.backbones import resnet18
from solo.utils.misc import omegaconf_select
from solo.utils.momentum import MomentumUpdater, initialize_momentum_params
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_DEFAULTS = {
    "backbone.kwargs": {},
    "method_kwargs": {},
    "optimizer.kwargs": {},
    "accumulate_grad_batches": 1,
}


class BaseMethod(pl.LightningModule):
    """Encoder and online classifier.

    Args:
        cfg: ``backbone``, ``data``, ``optimizer``, ``max_epochs`` and ``method_kwargs``, as the
            host's pretraining configurations have them.

    Attributes:
        heads: The method's own trained modules by name, each with settings of the optimizer.
    """

    heads: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        cfg = self.cfg = self.add_and_assert_specific_cfg(cfg)
        self.backbone: nn.Module = resnet18(cfg.method, **cfg.backbone.kwargs)
        self.features_dim = 512
        self.num_classes: int = cfg.data.num_classes
        self.classifier: nn.Module = nn.Linear(self.features_dim, self.num_classes)
        self.max_epochs: int = cfg.max_epochs
        self.lr: float = cfg.optimizer.lr
        self.classifier_lr: float = cfg.optimizer.classifier_lr
        self.weight_decay: float = cfg.optimizer.weight_decay
        self.batch_size: int = cfg.optimizer.batch_size
        self.num_large_crops: int = cfg.data.num_large_crops
        self.num_small_crops: int = cfg.data.num_small_crops
        self.num_crops = self.num_large_crops + self.num_small_crops
        self.multicrop = self.num_small_crops > 0
        self.validation_step_outputs: list[dict[str, Any]] = []

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """Fill in the settings that have a default; a method's own checks come after."""
        for key, default in _DEFAULTS.items():
            section, _, name = key.rpartition(".")
            inside = cfg[section] if section else cfg
            inside[name] = omegaconf_select(cfg, key, default)
        return cfg

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        """Parameter groups: encoder, classifier and the method's heads."""
        own = {"classifier": {"lr": self.classifier_lr, "weight_decay": 0}, **self.heads}
        groups = [{"name": "backbone", "params": self.backbone.parameters()}]
        for name, settings in own.items():
            groups.append({"name": name, "params": getattr(self, name).parameters(), **settings})
        return groups

    def configure_optimizers(self) -> Any:
        """Plain SGD without a schedule: the host's ``optimizer.name: sgd``, ``scheduler: none``."""
        settings = {"lr": self.lr, "weight_decay": self.weight_decay}
        return torch.optim.SGD(self.learnable_params, **settings, **self.cfg.optimizer.kwargs)

    def forward(self, X: Tensor) -> dict[str, Any]:
        """Return features and logits of a large crop; methods add their own outputs."""
        feats = self.backbone(X)
        return {"logits": self.classifier(feats.detach()), "feats": feats}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        """Return the features of a small crop; methods add their own outputs."""
        return {"feats": self.backbone(X)}

    def _classified(self, X: Tensor, targets: Tensor) -> dict[str, Any]:
        out = self(X)
        return out | {"loss": cross_entropy(out["logits"], targets, ignore_index=-1)}

    def training_step(self, batch: list[Any], batch_idx: int) -> Any:
        """Return every output as a list over crops, and as ``loss`` the classifier's."""
        _, crops, targets = batch
        assert len(crops) == self.num_crops
        large, small = crops[: self.num_large_crops], crops[self.num_large_crops :]
        outs = _listed([self._classified(crop, targets) for crop in large])
        for name, values in _listed([self.multicrop_forward(crop) for crop in small]).items():
            outs[name] = outs.get(name, []) + values
        outs["loss"] = sum(outs["loss"]) / self.num_large_crops
        self.log_dict({"train_class_loss": outs["loss"]}, on_epoch=True, sync_dist=True)
        return outs

    def validation_step(self, batch: list[Any], batch_idx: int) -> dict[str, Any]:
        """Return the classifier's loss on ``[images, targets]``."""
        images, targets = batch
        loss = self._classified(images, targets)["loss"]
        self.validation_step_outputs.append({"batch_size": len(targets), "val_loss": loss})
        return self.validation_step_outputs[-1]

    def on_validation_epoch_end(self) -> None:
        """Log the mean over all images."""
        outputs = self.validation_step_outputs
        total = sum(out["batch_size"] * out["val_loss"] for out in outputs)
        self.log("val_loss", total / sum(out["batch_size"] for out in outputs), sync_dist=True)
        outputs.clear()


class BaseMomentumMethod(BaseMethod):
    """The same with a momentum encoder, which moves after every optimizer step.

    Args:
        cfg: With a section ``momentum``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        self.momentum_backbone: nn.Module = resnet18(cfg.method, **cfg.backbone.kwargs)
        initialize_momentum_params(self.backbone, self.momentum_backbone)
        self.momentum_classifier = None
        self.momentum_updater = MomentumUpdater(cfg.momentum.base_tau, cfg.momentum.final_tau)

    @property
    def momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Online and momentum networks: encoders, and the method's projectors."""
        encoders = (self.backbone, self.momentum_backbone)
        return [encoders, (self.projector, self.momentum_projector)]

    @torch.no_grad()
    def momentum_forward(self, X: Tensor) -> dict[str, Any]:
        """Return the momentum features of a large crop."""
        return {"feats": self.momentum_backbone(X)}

    def training_step(self, batch: list[Any], batch_idx: int) -> Any:
        """Add what the momentum networks give for the large crops, as ``momentum_…``."""
        outs = super().training_step(batch, batch_idx)
        large = batch[1][: self.num_large_crops]
        for name, values in _listed([self.momentum_forward(crop) for crop in large]).items():
            outs[f"momentum_{name}"] = values
        return outs

    def on_train_start(self) -> None:
        """Count optimizer steps from here."""
        self.last_step = 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the momentum networks if the optimizer has made a step."""
        step = self.trainer.global_step
        if step > self.last_step:
            for pair in self.momentum_pairs:
                self.momentum_updater.update(*pair)
            self.log("tau", self.momentum_updater.cur_tau)
            self.momentum_updater.update_tau(step, self.trainer.estimated_stepping_batches)
        self.last_step = step


def _listed(outputs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [out[name] for out in outputs] for name in (outputs[0] if outputs else ())}
