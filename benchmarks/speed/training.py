"""The Lightly recipe on the embedded data, trained for a few dozen steps under a clock."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

sys.path.insert(1, str(Path(__file__).parents[1] / "recipes"))
from cluttered_digits import ClutteredDigits
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly_simclr import SimCLR

IMAGES = 1024


def train(
    backbone: str,
    callbacks: Sequence[pl.Callback],
    batch_size: int,
    epochs: int,
    threads: int,
    device: torch.device,
    **trainer: Any,
) -> SimCLR:
    """Train with callbacks that measure, and return the model.

    Args:
        backbone: ``"small"`` or ``"resnet18"``.
        callbacks: In the order in which they are called.
        batch_size: B.
        epochs: Of 1,024 images.
        threads: Of torch.
        device: What trains.
        **trainer: Further settings of the Trainer.
    """
    torch.set_num_threads(threads)
    pl.seed_everything(0)
    views = SimCLRTransform(input_size=32, min_scale=0.6, gaussian_blur=0.0, hf_prob=0.0)
    data = ClutteredDigits(train=True, size=IMAGES, transform=views)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True)
    model = SimCLR(backbone, 32, 2e-3, 0.1)
    pl.Trainer(
        max_epochs=epochs,
        accelerator=device.type,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **trainer,
    ).fit(model, loader)
    return model
