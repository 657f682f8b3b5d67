"""Recorded gradients, their moments in two passes, and a recipe of plain mean gradients."""

from __future__ import annotations

import importlib

import hosts
import torch


def callback(name, *args, **kwargs):
    """A callback of the adapter of the installed host."""
    package = "negplug_lightly" if hosts.site_name() == "criterion" else "negplug_solo"
    return getattr(importlib.import_module(package), name)(*args, **kwargs)


def two_pass(recorded, decay):
    """SNR from all recorded gradients, ``[steps][parameter]``, None where there was none."""
    ratios = []
    for each in zip(*recorded, strict=True):
        # The newest has weight 1; a parameter ages with its own steps.
        g = torch.stack([gradient.double().flatten() for gradient in each if gradient is not None])
        w = decay ** torch.arange(len(g) - 1, -1, -1).to(g)[:, None]
        mean = (w * g).sum(0) / w.sum()
        variance = (w * (g - mean) ** 2).sum(0) / w.sum()
        ratios.append((mean.abs() / variance.sqrt())[variance > 0])
    ratios = torch.cat(ratios)
    return ratios.mean().item(), ratios.std(correction=0).item()


class Recording(torch.optim.SGD):
    """Keeps the gradients of every step that it takes."""

    def __init__(self, named, lr=0.05, **kwargs):
        self.named = list(named)
        self.recorded = []
        super().__init__([parameter for _, parameter in self.named], lr=lr, **kwargs)

    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                closure()
        self.recorded.append([g if g is None else g.clone() for g in self.gradients()])
        return super().step()

    def gradients(self):
        return [parameter.grad for _, parameter in self.named]


class Regression:
    """Least squares: a loss whose gradient is the mean of its samples'."""

    def __new__(cls, manual=False):
        class Module(hosts.lightning().LightningModule):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
                self.automatic_optimization = not manual

            def training_step(self, batch, batch_idx):
                loss = self.second(self.first(batch[0])).square().mean()
                if not manual:
                    return loss
                first, second = self.optimizers()
                first.zero_grad()
                second.zero_grad()
                self.manual_backward(loss)
                first.step()
                if batch_idx % 2:
                    second.step()
                return None

        return Module()


def numbers(batch_size, rows=48):
    generator = torch.Generator().manual_seed(3)
    data = torch.utils.data.TensorDataset(torch.randn(rows, 3, generator=generator))
    return torch.utils.data.DataLoader(data, batch_size=batch_size)
