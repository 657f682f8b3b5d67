"""Recipes on either host that move rows between loader and loss, and ways of doing so."""

from __future__ import annotations

import hosts
import torch

ORDER = torch.tensor([3, 1, 4, 7, 5, 0, 2, 6])


def with_views(batch, change):
    """The batch with other images."""
    return [[change(v) for v in part] if isinstance(part, list) else part for part in batch]


def fit(change, where="training_step", sampler="memory_bank()", told=None):
    """Fit with views of 8 samples that ``where`` changes; ``told(step)`` is handed over."""
    module = hosts.recipe()
    control = hosts.negative_control()(sampler)
    if where == "training_step":
        step = module.training_step

        def training_step(batch, batch_idx):
            if told is not None:
                control.injection.provide(**told(batch_idx))
            return step(with_views(batch, change), batch_idx)

        module.training_step = training_step
    else:
        hook = {where: lambda self, batch, *_: with_views(batch, change)}
        module.__class__ = type("Hooked", (type(module),), hook)
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())
    return module, control


MOVES = {
    "shuffled": lambda x: x[ORDER],
    "flipped": lambda x: x.flip(0),
    "rolled": lambda x: torch.roll(x, 1, 0),
    "halves": lambda x: torch.cat([x[:4], x[:4]]),
    "selected": lambda x: x.index_select(0, ORDER).contiguous() * 2,
    "chunks": lambda x: torch.cat(x.chunk(4)[::-1]),
    "gathered": lambda x: x.gather(0, ORDER.view(-1, 1, 1, 1).expand_as(x)),
    "written": lambda x: x.clone().index_copy_(0, ORDER, x),
}
KEEPS = {
    "there and back": lambda x: x[ORDER][ORDER.argsort()],
    "other axes": lambda x: x.flip(3).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "two batches": lambda x: torch.cat([x, x + 0.1]).chunk(2)[0],
    "stacked": lambda x: torch.stack([x, x]).flatten(0, 1).view(2, *x.shape)[1],
    "added up": lambda x: torch.zeros_like(x).index_add_(0, torch.arange(8), x),
    "noise": lambda x: torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x + 1e-3 * torch.rand(()), x),
}
