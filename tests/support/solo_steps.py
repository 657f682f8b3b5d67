"""Steps of solo-learn's contrastive methods, treated and untreated."""

from __future__ import annotations

import hosts
import naive
import torch

from negplug import ContrastiveLoss
from negplug.contract.adapter import Metadata

GENERATION = hosts.solo_generation()
# Method: its loss function, calls in a step, settings.
ALL = {
    "SupCon": ("simclr_loss_func", 1, {}),
    "MoCoV3": ("mocov3_loss_func", 2, {}),
    "NNCLR": ("nnclr_loss_func", 2, {"queue_size": 24}),
    "All4One": ("nnclr_loss_func", 4, {"queue_size": 24}),
    "ReSSL": ("ressl_loss_func", 1, {"queue_size": 24}),
}
METHODS = [name for name in ALL if GENERATION == "main" or name in ("NNCLR", "ReSSL")]


def model_of(name, temperature=0.2, **kwargs):
    torch.manual_seed(0)
    return hosts.solo_method(name, temperature, **ALL[name][2], **kwargs).double()


def batch_for(number, rank=0, size=6, small_crops=0):
    generator = torch.Generator().manual_seed(10 * number + rank)
    crops = [
        torch.randn(size, 3, 16, 16, generator=generator, dtype=torch.float64)
        for _ in range(2 + small_crops)
    ]
    indexes = torch.arange(size) + 100 * number + 10 * rank  # no sample comes twice
    return [indexes, crops, torch.arange(size) % 3]


def step(model, batch):
    """The host's own training step in float64: its loss and the gradient of every weight."""
    model.log_dict = model.log = lambda *args, **kwargs: None
    torch.manual_seed(1)  # All4One has dropout
    loss = model.training_step(batch, 0)
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.detach(), torch.cat([g.flatten() for g in found if g is not None])


def assert_same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=0)
    assert naive.relative(ours[1], theirs[1]) < 1e-7
    assert theirs[1].norm() > 0


class Contrast:
    """What a treatment of ours calls, outside of a treated model."""

    temperature = None

    def __init__(self, sampler="in_batch()"):
        self.metadata, self.loss = Metadata(), ContrastiveLoss(sampler)

    def __call__(self, batch, *, objective, temperature):
        return self.loss.contrast(batch, objective, temperature)
