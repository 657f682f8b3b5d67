"""MoCo v3 (https://arxiv.org/abs/2104.02057): predictions against the batch's momentum keys."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from omegaconf import DictConfig
from solo.losses.mocov3 import mocov3_loss_func
from solo.methods.base import BaseMomentumMethod
from solo.methods.heads import unbiased
from solo.utils.momentum import initialize_momentum_params
from torch import Tensor


class MoCoV3(BaseMomentumMethod):
    """L = contrast(q₁; k₂) + contrast(q₂; k₁) + the classifier's loss; heads as for a ResNet.

    Args:
        cfg: ``method_kwargs`` holds ``proj_hidden_dim``, ``proj_output_dim``, ``pred_hidden_dim``
            and ``temperature``.
    """

    heads: ClassVar = {"projector": {}, "predictor": {}}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        own = cfg.method_kwargs
        self.temperature: float = own.temperature
        sizes = self.features_dim, own.proj_hidden_dim, own.proj_output_dim
        self.projector, self.momentum_projector = unbiased(*sizes), unbiased(*sizes)
        width = own.proj_output_dim
        self.predictor = unbiased(width, own.pred_hidden_dim, width, last=False)
        initialize_momentum_params(self.projector, self.momentum_projector)

    def forward(self, X: Tensor) -> dict[str, Any]:
        """Add the projection ``z`` and the prediction ``q``."""
        out = super().forward(X)
        z = self.projector(out["feats"])
        return out | {"q": self.predictor(z), "z": z}

    @torch.no_grad()
    def momentum_forward(self, X: Tensor) -> dict[str, Any]:
        """Add the key ``k``."""
        out = super().momentum_forward(X)
        return out | {"k": self.momentum_projector(out["feats"])}

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        out = super().training_step(batch, batch_idx)
        (q1, q2), (k1, k2) = out["q"], out["momentum_k"]
        loss = mocov3_loss_func(q1, k2, temperature=self.temperature)
        loss = loss + mocov3_loss_func(q2, k1, temperature=self.temperature)
        self.log_dict({"train_contrastive_loss": loss}, on_epoch=True, sync_dist=True)
        return loss + out["loss"]
