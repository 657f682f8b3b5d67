"""stable-pretraining: ``NTXEntLoss``, of SimCLR and NNCLR, and ``CLIPLoss``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import AdapterSpec, hookimpl
from negplug.contract.pairs import batch_of_pairs
from negplug.hosts.loss_modules import KnownLoss, LossModules
from negplug.hosts.treated_method import LossCall
from negplug.objectives.infonce import InfoNCE


def ntxent(call: LossCall, z_i: Tensor, z_j: Tensor) -> Tensor:
    """Return the treated ``NTXEntLoss`` of two views ``[B, d]``, among the keys of all ranks."""
    batch = ContrastiveBatch.from_views((z_i, z_j), **call.known_of(z_i)).gathered()
    return call.contrast(batch, objective=InfoNCE(), temperature=call.loss.temperature)


def clip(
    call: LossCall, feats_i: Tensor, feats_j: Tensor, logit_scale: Tensor | float | None = None
) -> Tensor:
    """Return the treated ``CLIPLoss``, the mean of both directions, among the keys of all ranks.

    ``logit_scale`` is what the host divides the similarities by, where it is given.
    """
    temperature: Any = call.loss.temperature if logit_scale is None else logit_scale
    towers, losses = (feats_i, feats_j), []
    for direction in (0, 1):
        anchors, keys = towers[direction], towers[1 - direction]
        batch = batch_of_pairs(anchors, keys, direction=direction, **call.known_of(anchors))
        losses.append(call.contrast(batch.gathered(), objective=InfoNCE(), temperature=temperature))
    return torch.stack(losses).mean()


_LOSSES = LossModules(
    "stable-pretraining",
    "stable_pretraining.losses",
    {
        "NTXEntLoss": KnownLoss(ntxent, "every sampler; queue() needs a size", parts=("_compute",)),
        "CLIPLoss": KnownLoss(clip, "every sampler; queue() needs a size", parts=("_compute",)),
    },
    harmless=(
        "BYOLLoss VICRegLoss BarlowTwinsLoss SwAVLoss DINOv1Loss DINOv2Loss iBOTPatchLoss MAELoss "
        "NegativeCosineSimilarity VCRegLoss".split()
    ),
)


@hookimpl
def negplug_adapters() -> Iterable[AdapterSpec]:
    """Offer the adapter of stable-pretraining."""
    yield _LOSSES.adapter("NTXEntLoss and CLIPLoss of stable_pretraining.losses")
