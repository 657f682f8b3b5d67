"""Runs of the installed host's recipe with a sampler that looks at its batch, and may encode."""

from __future__ import annotations

import functools
import importlib
import random

import hosts
import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader

from negplug import NegativeSampler
from negplug.samplers.chains.absent import embedded

OUTSIDE = torch.tensor([20, 3, 23, 20])
"""Samples that the first batches of an unshuffled loader do not hold; one of them twice."""


class Encoding(NegativeSampler):
    """In-batch negatives; in training it first hands its batch to ``look``."""

    wants_indexes = True

    def __init__(self, look):
        super().__init__()
        self.look = look

    def sample(self, batch):
        more = self.look(batch) if batch.training else None
        return batch.all_keys() if more is None else (batch.all_keys(), more)


def forgotten(batch):
    """Encode, and make no use of it."""
    embedded("test", batch, OUTSIDE[:3], seed=5)


class Noisy(hosts.Pairs):
    """Augmentations from every global generator."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        views = next(part for part in sample if isinstance(part, list))
        noise = torch.rand(()) + numpy.random.rand() + random.random()
        views[:] = [view + float(noise) for view in views]
        return sample


def as_sampler(look):
    return look if isinstance(look, (str, NegativeSampler)) else Encoding(look)


def fit(look, module=None, data=None, batch_size=8, shuffle=False, callbacks=(), **kwargs):
    hosts.lightning().seed_everything(0)
    module = hosts.recipe() if module is None else module()
    control = hosts.negative_control()(as_sampler(look))
    trainer = hosts.trainer(callbacks=[control, *callbacks], **kwargs)
    data = hosts.Pairs() if data is None else data
    trainer.fit(module, DataLoader(data, batch_size, shuffle=shuffle, drop_last=True))
    return module, trainer, control


def with_batchnorm():
    """The recipe with what depends on the mode: BatchNorm, and Dropout that draws."""
    module = hosts.recipe()
    backbone = getattr(module, network(module))
    backbone.insert(1, nn.BatchNorm2d(8))
    backbone.insert(3, nn.Dropout(0.2))
    return module


def every_recipe():
    """The recipes of the installed host by name: every method, or every criterion."""
    if not hosts.solo_generation():
        losses = importlib.import_module("lightly.loss")
        criteria = {
            "bank": lambda: losses.NTXentLoss(memory_bank_size=(16, 16)),
            "DCLLoss": losses.DCLLoss,
            "DCLWLoss": losses.DCLWLoss,
            "DirectCLRLoss": lambda: losses.DirectCLRLoss(loss_dim=8),
            "MACLLoss": losses.MACLLoss,
        }
        return {name: functools.partial(_of_criterion, make) for name, make in criteria.items()}
    methods = ["MoCoV2Plus", "NNCLR", "ReSSL"]
    methods += ["SupCon", "MoCoV3", "All4One"] * (hosts.solo_generation() == "main")
    recipes = {name: functools.partial(_of_method, name) for name in methods}
    return recipes | {"crops": functools.partial(hosts.recipe, small_crops=2)}


def _of_method(name):
    sizes = {"MoCoV2Plus": 16, "NNCLR": 24, "All4One": 24, "ReSSL": 24}
    return hosts.solo_method(name, **({"queue_size": sizes[name]} if name in sizes else {}))


def _of_criterion(make):
    module = hosts.recipe()
    module.criterion = make()
    return module


def by_the_sample_alone(module):
    """Remove what makes an embedding depend on the rest of its batch, or on chance."""
    for parent in module.modules():
        if hasattr(parent, "dropout") and isinstance(parent.dropout, float):
            parent.dropout = 0.0
        for name, child in parent.named_children():
            if isinstance(child, (nn.modules.batchnorm._BatchNorm, nn.Dropout)):
                setattr(parent, name, nn.Identity())
    return module


def network(module):
    return "encoder" if hosts.solo_generation() == "1.0.2" else "backbone"


def spelled(precision):
    return precision.removesuffix("-mixed") if is_first_lightning() else precision


def is_first_lightning():
    return hosts.lightning().__version__.startswith("1.")


def ahead(module, action):
    """Do something in the training step before the host does its own."""
    inner = module.training_step

    def training_step(batch, batch_idx):
        action(module)
        return inner(batch, batch_idx)

    module.training_step = training_step
    return module
