"""SupCon (https://arxiv.org/abs/2004.11362): crops of a class are each other's positives."""

from __future__ import annotations

from typing import Any

import torch
from solo.losses.simclr import simclr_loss_func
from solo.methods.heads import Projected
from torch import Tensor


class SupCon(Projected):
    """L = contrast of all crops by target + the classifier's loss.

    No subclass of SimCLR, as in the host.
    """

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        out = super().training_step(batch, batch_idx)
        targets = batch[-1].repeat(self.num_crops)
        loss = simclr_loss_func(torch.cat(out["z"]), indexes=targets, temperature=self.temperature)
        self.log("train_nce_loss", loss, on_epoch=True, sync_dist=True)
        return loss + out["loss"]
