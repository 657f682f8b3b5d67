"""Lightly's criteria under either Lightning, and under its tuner."""

from __future__ import annotations

import importlib

import hosts
import pytest
import torch
from queue_contents import rows_in
from torch import nn

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


def test_either_lightning_is_treated_and_so_are_both_at_once():
    import hosts

    lightning = pytest.importorskip("lightning.pytorch")
    hosts.lightning()  # both are imported, so the class belongs to both
    from negplug_lightly import NegativeControl

    control = NegativeControl("uniform(num_negatives=2)")
    assert isinstance(control, lightning.Callback)
    assert isinstance(control, hosts.lightning().Callback)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 8)
            self.criterion = NTXentLoss()

        def training_step(self, batch, batch_idx):
            first = batch[0][0].mean((1, 2))
            return self.criterion(self.layer(first), self.layer(first + 0.1))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        callbacks=[control],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), hosts.loader())
    assert control.injection.losses["criterion"].calls == 3


def _tuned(sampler):
    """Look for a learning rate; return the callback, the losses of the steps and the model."""
    tuner = importlib.import_module(f"{hosts.framework()}.tuner")
    module, losses = hosts.recipe(), []
    module.lr = 0.01
    step = module.training_step

    def training_step(batch, batch_idx):
        loss = step(batch, batch_idx)
        losses.append(float(loss))
        return loss

    module.training_step = training_step
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=10)
    # No early stop: the loss of an empty queue is 0, and no later one is as low.
    search = {"num_training": 6, "early_stop_threshold": None}
    tuner.Tuner(trainer).lr_find(module, hosts.loader(), **search)
    return control, losses, module


@pytest.mark.filterwarnings("ignore")
def test_a_tuners_steps_are_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the tuner keeps the weights in a file
    control, losses, _ = _tuned("queue(size=1000)")
    state = control.injection.losses["criterion"].loss.state_dict()
    assert state["_extra_state"]["further"] == 0
    assert len(losses) >= 6
    assert losses[0] == 0  # of an empty queue
    assert min(losses[1:]) > 0
    assert len(rows_in(state)) == 16 * len(losses)


@pytest.mark.filterwarnings("ignore")
def test_a_tuner_cannot_say_which_samples_it_trains_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="a tuner's steps run without the NegativeControl callback"
    ):
        _tuned("memory_bank()")


@pytest.mark.filterwarnings("ignore")
def test_a_fit_after_a_tuner_begins_afresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    control, _, module = _tuned("queue(size=1000)")
    trainer = hosts.trainer(callbacks=[control], limit_train_batches=2)
    trainer.fit(module, hosts.loader())
    assert len(rows_in(control.injection.losses["criterion"].loss.state_dict())) == 32
