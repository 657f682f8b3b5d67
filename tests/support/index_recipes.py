"""Recipes that know the index of each sample, and a callback that records the indexes."""

import hosts
import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    WeightedRandomSampler,
)

from negplug.hosts.trainer.indexes.recorder import IndexRecorder

SIZE = 22  # with batches of 4 the last one is smaller


class Numbered(Dataset):
    """Samples that carry their own index, and a draw from the generator of whoever loads them."""

    def __init__(self, size=SIZE):
        self.features = torch.randn(size, 3, generator=torch.Generator().manual_seed(5))

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        return self.features[index] + 0.1 * torch.randn(3), index


class Steps(hosts.lightning().LightningModule):
    def __init__(self, loader=None, estimate=False):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.make_loader = loader  # None: the loader is given to fit
        self.estimate = estimate
        self.seen = []

    def train_dataloader(self):
        return self.make_loader()

    def training_step(self, batch, batch_idx):
        features, indexes = batch
        self.seen.append(indexes.tolist())
        return self.layer(features).square().mean()

    def validation_step(self, batch, batch_idx):
        self.layer(batch[0])

    def configure_optimizers(self):
        if self.estimate:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recording(hosts.lightning().Callback):
    """Uses the recorder as negplug's callback does."""

    def __init__(self):
        self.recorder = None
        self.recorded = []

    def setup(self, trainer, pl_module, stage):
        if stage == "fit":
            self.recorder = IndexRecorder(trainer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        indexes = self.recorder.advance()
        if indexes is not None:
            assert indexes.dtype == torch.int64
            assert indexes.device.type == "cpu"
        self.recorded.append(None if indexes is None else indexes.tolist())

    def teardown(self, trainer, pl_module, stage):
        self.recorder.remove()

    def on_exception(self, trainer, pl_module, exception):
        self.recorder.remove()


class Flipped:
    """A batch sampler that is none of torch's, without a length, and draws at ``iter``."""

    def __iter__(self):
        order = torch.randperm(SIZE)
        return iter([order[:9], order[9:12], order[12:]])


class Reused:
    """Yields one tensor again and again; without a length, so that Lightning looks ahead."""

    def __init__(self):
        self.batch = torch.zeros(3, dtype=torch.int64)

    def __iter__(self):
        for first in range(5):
            self.batch[:] = torch.tensor([first, 2 * first, 3 * first])
            yield self.batch


def without_three(samples):
    """Lightning passes over a batch that is None, and calls no hook for it."""
    if any(index == 3 for _, index in samples):
        return None
    return torch.utils.data.default_collate(samples)


def make(**kwargs):
    return DataLoader(Numbered(), **({"batch_size": 4, "shuffle": True} | kwargs))


def sampled(batch_sampler, **kwargs):
    return DataLoader(Numbered(), batch_sampler=batch_sampler, **kwargs)


def fit(loader, callbacks=(), build=Steps, val=None, ckpt_path=None, **kwargs):
    """Train from a fixed seed; return the module."""
    torch.manual_seed(3)
    module = build()
    kwargs = {"max_epochs": 3, "num_sanity_val_steps": 2 if val else 0} | kwargs
    trainer = hosts.trainer(callbacks=list(callbacks), **kwargs)
    train = {} if loader is None else {"train_dataloaders": loader}
    trainer.fit(module, **train, val_dataloaders=val, ckpt_path=ckpt_path)
    return module


def assert_recorded_and_unchanged(run):
    """``run(callbacks)`` trains and returns the module."""
    recording = Recording()
    treated = run([recording])
    state = torch.get_rng_state()
    untreated = run([])
    assert len(treated.seen) > 3
    assert recording.recorded == treated.seen == untreated.seen
    assert torch.equal(hosts.parameters(treated), hosts.parameters(untreated))
    assert torch.equal(state, torch.get_rng_state())


LOADERS = {
    "plain": make,
    "drop_last": lambda: make(drop_last=True),
    "in order": lambda: make(shuffle=False),
    "own generator": lambda: make(generator=torch.Generator().manual_seed(1)),
    "workers": lambda: make(num_workers=2),
    "persistent": lambda: make(num_workers=2, persistent_workers=True, prefetch_factor=3),
    "with replacement": lambda: make(
        shuffle=False, sampler=WeightedRandomSampler(torch.linspace(0.1, 1, SIZE), 30)
    ),
    "own distributed": lambda: make(
        shuffle=False, sampler=DistributedSampler(Numbered(), num_replicas=2, rank=1)
    ),
    "batch sampler": lambda: sampled(
        BatchSampler(DistributedSampler(Numbered(), num_replicas=2, rank=1), 5, drop_last=False)
    ),
    "no length": lambda: sampled(Flipped()),
    "no length, workers": lambda: sampled(Flipped(), num_workers=1),
    "reused tensor": lambda: sampled(Reused()),
    "list": lambda: sampled([[3, 1], [np.int64(4), 1, 5], np.array([9])]),
    "batches of None": lambda: make(collate_fn=without_three),
    "batches of None, workers": lambda: make(collate_fn=without_three, num_workers=2),
}
TRAINERS = {
    "limit": {"limit_train_batches": 3},
    "fraction": {"limit_train_batches": 0.5},
    "accumulate": {"accumulate_grad_batches": 2},
    "reload": {"reload_dataloaders_every_n_epochs": 1},
    "overfit": {"overfit_batches": 2},
    "steps": {"max_steps": 8},
}
