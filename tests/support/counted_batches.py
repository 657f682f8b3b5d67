"""A fit of a few counted batches, with either Lightning: what is drawn, taken and seen."""

from __future__ import annotations

import functools

import torch
from hosts import QUIET
from torch import nn
from torch.utils.data import DataLoader

from negplug.hosts.trainer import private


class Batches:
    """A batch sampler that counts what is drawn from it."""

    def __init__(self, count):
        self.count = count
        self.drawn = 0

    def __iter__(self):
        for number in range(self.count):
            self.drawn += 1
            yield [2 * number, 2 * number + 1]


class SizedBatches(Batches):
    def __len__(self):
        return self.count


def collate_without(missing, samples):
    """Collate, but give None for the batch that begins with the sample ``missing``."""
    return None if int(samples[0]) == missing else torch.stack(samples)


def loader(batches=4, kind=SizedBatches, missing=None, **options):
    collate = functools.partial(collate_without, missing)
    data = torch.arange(2.0 * batches)
    return DataLoader(data, batch_sampler=kind(batches), collate_fn=collate, **options)


def fit(lightning, data, at_start=None, at_end=None, **options):
    """Fit a module that doubles its batches before the transfer; return it and the Trainer."""

    class Recipe(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.seen = []

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return None if batch is None else 2 * batch

        def training_step(self, batch, batch_idx):
            self.seen.append(batch)
            first = batch[0] if isinstance(batch, (list, tuple)) else batch
            return self.layer(first[:, None]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class Looking(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, *_):
            if at_start is not None:
                at_start(trainer, module)

        def on_train_batch_end(self, trainer, module, *_):
            if at_end is not None:
                at_end(trainer, module)

    hook = options.pop("hook", None)
    trainer, model = lightning.Trainer(**(QUIET | {"callbacks": [Looking()]} | options)), Recipe()
    if hook is not None:
        private.set_loader_hook(trainer, functools.partial(hook, trainer))
    trainer.fit(model, data)
    return trainer, model
