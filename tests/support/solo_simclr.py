"""solo-learn's SimCLR: a batch and a step of it."""

from __future__ import annotations

import torch


def batch_for(model, size=6, small_crops=0, classes=3):
    generator = torch.Generator().manual_seed(5)
    crops = [
        torch.randn(size, 3, 16, 16, generator=generator, dtype=torch.float64)
        for _ in range(2 + small_crops)
    ]
    return [torch.arange(size) + 100, crops, torch.arange(size) % classes]


def step(model, batch):
    """The host's own training step in float64, its logging silenced: loss and gradients."""
    model.log_dict = model.log = lambda *args, **kwargs: None
    loss = model.training_step(batch, 0)
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.detach(), torch.cat([g.flatten() for g in found if g is not None])
