"""A plain loop whose steps can be split into micro-batches."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from negplug import ContrastiveLoss, accumulated

ROWS = 12
SAMPLES = 24
COUNT = 4


class Net(nn.Module):
    """An encoder of features ``[B, 6]``."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8)
        )

    def forward(self, x):
        return self.layers(x)


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SAMPLES, 6, generator=generator)


def batches(steps, rows=ROWS):
    """Yield batches ``(views, {"indexes", "labels"})``: samples in order, noise of their own."""
    generator, samples = torch.Generator().manual_seed(2), data()
    for step in range(steps):
        indexes = torch.arange(step * rows, (step + 1) * rows) % SAMPLES
        views = [samples[indexes] + 0.3 * torch.randn(rows, 6, generator=generator) for _ in "ab"]
        yield views, {"indexes": indexes, "labels": indexes % 3}


class Loop:
    """A model, its loss and its optimizer.

    Args:
        sampler: An expression.
        count: Number of micro-batches; one leaves the step as it is.
        model: In place of a ``Net``.
        step: In place of ``self.step``, given the loop and a batch.
    """

    def __init__(self, sampler="in_batch()", count=COUNT, model=None, step=None, **kwargs):
        torch.manual_seed(0)
        self.model = Net() if model is None else model()
        self.loss_fn = ContrastiveLoss(sampler, temperature=0.2, seed=3)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        own = self.step if step is None else lambda batch: step(self, batch)
        self.run = accumulated(own, count, model=self.model, loss=self.loss_fn, **kwargs)

    def step(self, batch):
        (x0, x1), known = batch
        samples = data()
        return self.loss_fn(
            self.model(x0),
            self.model(x1),
            **known,
            encode=lambda indexes: (self.model(samples[indexes]), self.model(-samples[indexes])),
        )

    def train(self, steps=20):
        """Return the values of the loss."""
        values = []
        for batch in batches(steps):
            loss = self.run(batch)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            values.append(loss.detach())
        self.loss_fn.end_step()
        return torch.stack(values)

    def parameters(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def normalized(loop, x):
    return functional.normalize(loop.model(x), dim=1)
