"""Lightly's criteria under either Lightning, and two of them under its tuner."""

from __future__ import annotations

import importlib

import hosts
import pytest
import torch
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


class TwoLosses(hosts.lightning().LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 8)
        self.near, self.far = NTXentLoss(), NTXentLoss(temperature=0.2)
        self.losses = []

    def training_step(self, batch, batch_idx):
        views = [self.layer(view.mean((1, 2))) for view in batch[0]]
        loss = self.near(*views) + self.far(*views)
        self.losses.append(float(loss))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_all_callbacks_of_a_trainer_are_tuned_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the finder keeps the weights in a file
    callbacks = importlib.import_module(f"{hosts.framework()}.callbacks")
    search = {"num_training_steps": 3, "early_stop_threshold": None, "update_attr": False}

    def losses(*more):
        torch.manual_seed(0)
        control, model = hosts.negative_control(), TwoLosses()
        given = control("memory_bank()", target="near"), control("gumbel_max()", target="far")
        hosts.trainer(callbacks=[*more, *given]).fit(model, hosts.loader())
        return model.losses

    plain = losses()
    tuned = losses(callbacks.LearningRateFinder(0.1, 0.1, **search))
    assert tuned[:3] == tuned[-3:] == plain
