"""ReSSL (https://arxiv.org/abs/2107.09282): relations of a view to past keys, taught by another."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from solo.losses.ressl import ressl_loss_func
from solo.methods.heads import QueryAndKey, add_queue, enqueue
from torch import Tensor


class ReSSL(QueryAndKey):
    """L = relations(q₁; k₂, queue) + the classifier's loss.

    Args:
        cfg: ``method_kwargs`` holds ``proj_hidden_dim``, ``proj_output_dim``, ``temperature_q``,
            ``temperature_k`` and ``queue_size``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        own = cfg.method_kwargs
        self.temperature_q: float = own.temperature_q
        self.temperature_k: float = own.temperature_k
        add_queue(self, own.proj_output_dim)

    def dequeue_and_enqueue(self, keys: Tensor) -> None:
        """Let keys into the queue."""
        enqueue(self, queue=keys)

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, then let its keys into the queue."""
        out = super().training_step(batch, batch_idx)
        q, k = out["z"][0], out["momentum_z"][1]
        past = self.queue.clone().detach()
        loss = ressl_loss_func(q, k, past, self.temperature_q, self.temperature_k)
        self.log("train_ressl_loss", loss, on_epoch=True, sync_dist=True)
        self.dequeue_and_enqueue(k)
        return loss + out["loss"]
