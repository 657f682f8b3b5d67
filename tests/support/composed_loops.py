"""A plain loop whose batches are composed, and what each batch held."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from negplug import ComposedBatchSampler, Composer, ContrastiveLoss

SIZE, BATCH, WIDTH = 26, 4, 3
WALK = "random_walk(num_neighbors=3, num_candidates=None)"


class Points(Dataset):
    """Two views of each of a few points, and its place."""

    def __init__(self, size=SIZE):
        self.points = torch.randn(size, 5, generator=torch.Generator().manual_seed(1))
        self.kinds = [index % 2 for index in range(size)]

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index], self.points[index] + 0.1, index


class Sorted(Composer):
    """By the first coordinate of the embeddings; keeps what it was given."""

    wants_embeddings = True

    def __init__(self):
        self.given = []

    def compose(self, epoch):
        self.given.append(epoch)
        return epoch.embeddings[:, 0].cpu().argsort()


def sampler(composer=WALK, dataset=None, **options):
    options = {"batch_size": BATCH, "seed": 7} | options
    return ComposedBatchSampler(composer, dataset=dataset or Points(), **options)


class Loop:
    """Trains a small encoder.

    Attributes:
        batches: The batch sampler.
        epochs: The places of each batch, epoch by epoch.
        rows: Of each sample the mean of its views at length one, in the last step that had it.
    """

    def __init__(self, batches, **options):
        self.batches, self.epochs, self.rows = batches, [], {}
        self.loader = DataLoader(batches.dataset, batch_sampler=batches, **options)
        self.net = torch.nn.Linear(5, WIDTH)
        with torch.no_grad():
            self.net.weight.copy_(torch.eye(WIDTH, 5))
            self.net.bias.zero_()

    def train(self, *epochs, embed=True):
        loss_fn = ContrastiveLoss("in_batch()")
        for epoch in epochs:
            self.batches.set_epoch(epoch)
            self.epochs.append([])
            for x0, x1, places in self.loader:
                self.epochs[-1].append(places.tolist())
                views = self.net(x0), self.net(x1)
                if embed:
                    self.batches.update(places, *views)
                units = [torch.nn.functional.normalize(view.detach()) for view in views]
                mean = torch.nn.functional.normalize(sum(units))
                self.rows |= dict(zip(places.tolist(), mean, strict=True))
                loss_fn(*views).backward()
                with torch.no_grad():
                    for parameter in self.net.parameters():
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
        return self

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.net.parameters()])
