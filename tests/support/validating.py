"""The installed host's recipe, with a validation loss that it logs as ``val_loss``."""

from __future__ import annotations

import hosts
import torch
from torch.utils.data import DataLoader


def recipe(module=None, *, gradient=False):
    """A recipe that validates and tests by its training step."""
    module = hosts.recipe() if module is None else module

    def validate(batch, batch_idx):
        with torch.set_grad_enabled(gradient):
            out = module.training_step(batch, batch_idx)
        module.log("val_loss", out["loss"] if isinstance(out, dict) else out)

    module.validation_step = module.test_step = validate
    # solo-learn's own evaluation of what its validation_step returns.
    for stage in ("validation", "test"):
        for name in (f"{stage}_epoch_end", f"on_{stage}_epoch_end"):
            if getattr(module, name, None) is not None:
                setattr(module, name, lambda *outputs: None)
    return module


def loader(size=16):
    return DataLoader(hosts.Pairs(size), batch_size=8)


def hosts_own(module, stage="validate"):
    """The validation loss of the untreated module, by a Trainer of its own."""
    trainer = hosts.trainer(inference_mode=False)
    return getattr(trainer, stage)(module, loader(), verbose=False)[0]["val_loss"]
