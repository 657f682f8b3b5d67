"""MoCo v2+ (https://arxiv.org/abs/2011.10566): MoCo v2, symmetric, with a queue for each view."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from solo.losses.mocov2plus import mocov2plus_loss_func
from solo.methods.heads import QueryAndKey
from solo.utils.misc import gather
from torch import Tensor
from torch.nn.functional import normalize


class MoCoV2Plus(QueryAndKey):
    """L = (contrast(q₁; k₂, queue₂) + contrast(q₂; k₁, queue₁))/2 + the classifier's loss.

    Args:
        cfg: ``method_kwargs`` holds ``proj_hidden_dim``, ``proj_output_dim``, ``temperature`` and
            ``queue_size``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        own = cfg.method_kwargs
        self.temperature: float = own.temperature
        noise = torch.randn(2, own.proj_output_dim, self.queue_size)
        self.register_buffer("queue", normalize(noise, dim=1))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def _dequeue_and_enqueue(self, keys: Tensor) -> None:
        """Let keys ``[2, B, d]`` into the queues of both views."""
        start, count = int(self.queue_ptr), keys.shape[1]
        assert self.queue_size % count == 0
        self.queue[:, :, start : start + count] = keys.transpose(1, 2)
        self.queue_ptr[0] = (start + count) % self.queue_size

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, then let its keys into the queues."""
        out = super().training_step(batch, batch_idx)
        (q1, q2), (k1, k2) = out["z"], out["momentum_z"]
        past = self.queue.clone().detach()
        first = mocov2plus_loss_func(q1, k2, past[1], self.temperature)
        loss = (first + mocov2plus_loss_func(q2, k1, past[0], self.temperature)) / 2
        self._dequeue_and_enqueue(torch.stack([gather(k1), gather(k2)]))
        self.log("train_nce_loss", loss, on_epoch=True, sync_dist=True)
        return loss + out["loss"]
