"""NNCLR (https://arxiv.org/abs/2104.14548): a view's nearest neighbour among past projections."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from omegaconf import DictConfig
from solo.losses.nnclr import nnclr_loss_func
from solo.methods.base import BaseMethod
from solo.methods.heads import add_queue, deep, enqueue, normalized, with_queue
from torch import Tensor
from torch.nn.functional import normalize


class NNCLR(BaseMethod):
    """L = (contrast(nn(z₁); p₂) + contrast(nn(z₂); p₁))/2 + the classifier's loss.

    Args:
        cfg: ``method_kwargs`` holds ``proj_hidden_dim``, ``proj_output_dim``, ``pred_hidden_dim``,
            ``temperature`` and ``queue_size``.
    """

    heads: ClassVar = {"projector": {}, "predictor": {}}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        own = cfg.method_kwargs
        self.temperature: float = own.temperature
        self.queue_size: int = own.queue_size
        width = own.proj_output_dim
        self.projector = deep(self.features_dim, own.proj_hidden_dim, width)
        self.predictor = normalized(width, own.pred_hidden_dim, width)
        add_queue(self, width, "queue_y")

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """Fill in the queue's size."""
        return with_queue(BaseMethod.add_and_assert_specific_cfg(cfg))

    @torch.no_grad()
    def find_nn(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row of the most similar past projection, and that projection."""
        row = (z @ self.queue.T).argmax(1)
        return row, self.queue[row]

    def dequeue_and_enqueue(self, z: Tensor, y: Tensor) -> None:
        """Let projections into the queue, with their targets."""
        enqueue(self, queue=z, queue_y=y)

    def forward(self, X: Tensor) -> dict[str, Any]:
        """Add the prediction ``p`` of the projection, and the projection ``z`` of unit length."""
        out = super().forward(X)
        z = self.projector(out["feats"])
        return out | {"z": normalize(z, dim=-1), "p": self.predictor(z)}

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, then let its projections into the queue."""
        out = super().training_step(batch, batch_idx)
        (z1, z2), (p1, p2) = out["z"], out["p"]
        (row, nn1), (_, nn2) = self.find_nn(z1), self.find_nn(z2)
        loss = nnclr_loss_func(nn1, p2, temperature=self.temperature) / 2
        loss = loss + nnclr_loss_func(nn2, p1, temperature=self.temperature) / 2
        agreed = (batch[-1] == self.queue_y[row]).float().mean()
        self.dequeue_and_enqueue(z1, batch[-1])
        metrics = {"train_nnclr_loss": loss, "train_nn_acc": agreed}
        self.log_dict(metrics, on_epoch=True, sync_dist=True)
        return loss + out["loss"]
