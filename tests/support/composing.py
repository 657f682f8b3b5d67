"""Fits of the installed host's recipe whose batches are composed; what each batch held."""

from __future__ import annotations

import hosts
from composed_loops import WALK, Sorted
from fitted import _full_load
from torch.utils.data import DataLoader

__all__ = ["BATCH", "SIZE", "WALK", "Seen", "Sorted", "fit", "loader"]

SIZE, BATCH = 26, 8


class Seen(hosts.lightning().Callback):
    """Keeps the samples of each training batch, epoch by epoch, as the batch itself names them."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, *_):
        self.epochs.append([])

    def on_train_batch_end(self, trainer, module, outputs, batch, *_):
        lightly = isinstance(batch[2], (list, tuple))
        names = [int(name.split(".")[0]) for name in batch[2]] if lightly else batch[0].tolist()
        self.epochs[-1].append(names)


def loader(dataset=None, **kwargs):
    dataset = hosts.Pairs(SIZE) if dataset is None else dataset
    return DataLoader(dataset, **({"batch_size": BATCH, "shuffle": True} | kwargs))


def fit(compose, data=None, epochs=3, resume=None, sampler="in_batch()", extra=(), **kwargs):
    """Train; return the weights, the callback, the batches of each epoch, the Trainer."""
    hosts.lightning().seed_everything(kwargs.pop("seed", 0))
    seen = Seen()
    control = hosts.negative_control()(sampler, compose=compose)
    trainer = hosts.trainer(callbacks=[control, seen, *extra], max_epochs=epochs, **kwargs)
    module = hosts.recipe()
    with _full_load():
        trainer.fit(module, loader() if data is None else data, ckpt_path=resume)
    return hosts.parameters(module), control, seen.epochs, trainer
