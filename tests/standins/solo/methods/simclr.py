"""SimCLR (https://arxiv.org/abs/2002.05709): crops of a sample are each other's positives."""

from __future__ import annotations

from typing import Any

import torch
from solo.losses.simclr import simclr_loss_func
from solo.methods.heads import Projected
from torch import Tensor


class SimCLR(Projected):
    """L = contrast of all crops by index + the classifier's loss."""

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        out = super().training_step(batch, batch_idx)
        indexes = batch[0].repeat(self.num_crops)
        loss = simclr_loss_func(torch.cat(out["z"]), indexes=indexes, temperature=self.temperature)
        self.log("train_nce_loss", loss, on_epoch=True, sync_dist=True)
        return loss + out["loss"]
