"""Fits of the installed host's recipe with the Lightning callback."""

from __future__ import annotations

import hosts
import torch


def fit(sampler=None, seed=0, size=24, module=None, **kwargs):
    hosts.lightning().seed_everything(seed)
    module = hosts.recipe() if module is None else module
    callbacks = [] if sampler is None else [hosts.negative_control()(sampler)]
    trainer = hosts.trainer(callbacks=callbacks, **kwargs)
    trainer.fit(module, hosts.loader(size))
    return module, callbacks[0] if callbacks else None, trainer


class _full_load:
    """Lets pytorch-lightning 1.9 read its own checkpoints under today's torch."""

    def __enter__(self):
        self._before = torch.load
        torch.load = lambda *a, **k: self._before(*a, **(k | {"weights_only": False}))

    def __exit__(self, *_):
        torch.load = self._before
