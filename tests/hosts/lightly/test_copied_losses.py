"""A treated loss that a recipe copies in the middle of a fit: the copy is no part of the fit."""

from __future__ import annotations

import copy

import hosts
import naive
import pytest
import torch

from negplug import inject
from negplug.hosts.untreated import UntreatedLossError

lightly_loss = pytest.importorskip("lightly.loss")

pytestmark = pytest.mark.filterwarnings("ignore:.*the loss trains its keys")


class Copying(hosts.lightning().LightningModule):
    """Copies its criterion when it first needs another one, and trains with both."""

    def __init__(self, keep):
        super().__init__()
        self.layer, self.criterion = torch.nn.Linear(hosts.IMAGE, 8), lightly_loss.NTXentLoss(0.2)
        self.keep, self.others = keep, []

    def training_step(self, batch, batch_idx):
        z = [self.layer(view.mean((1, 2))) for view in batch[0]]
        loss = self.criterion(*z)
        if not self.others:
            self.others.append(self.keep(copy.deepcopy(self.criterion)))
        return loss + self.others[0](*z)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(keep=lambda loss: loss, sampler="uniform(num_negatives=2)", **given):
    control = hosts.negative_control()(sampler, **given)
    module = Copying(keep)
    hosts.trainer(callbacks=[control], max_epochs=2).fit(module, hosts.loader())
    return module


@pytest.mark.parametrize("keep", [lambda loss: loss, lambda loss: lambda *z: loss(*z)])
def test_a_copy_beside_the_loss_is_named(keep):
    with pytest.raises(UntreatedLossError, match=r"NTXentLoss \(called at .* a copy that was made"):
        fit(keep)


def test_a_copy_does_not_take_the_samples_of_its_first_step_for_those_of_all():
    with pytest.raises(ValueError, match="the data set indexes of the batch are unknown"):
        fit(sampler="memory_bank()", target="criterion")


def test_a_copy_that_is_ignored_trains_on():
    class Other(lightly_loss.NTXentLoss):
        """A class of its own, which is ignored by name."""

    def keep(loss):
        loss.__class__ = Other
        return loss

    assert fit(keep, ignore="Other").others


def test_a_copy_that_is_made_in_validation_trains_treated():
    model = torch.nn.Sequential(lightly_loss.NTXentLoss(0.2))
    z = naive.embeddings(2, 8)
    with inject(model, "uniform(num_negatives=2)") as handle:
        (treated,) = handle.losses.values()
        treated.evaluating = True
        twin = copy.deepcopy(model)
    assert twin[0](*z).item() < model[0](*z).item() - 0.1


def test_a_copy_of_the_model_that_is_looked_at_by_itself_is_no_fault():
    class Looking(Copying):
        def training_step(self, batch, batch_idx):
            z = [self.layer(view.mean((1, 2))) for view in batch[0]]
            twin = copy.deepcopy(self.criterion), copy.deepcopy(self.layer)
            assert twin[0](*(twin[1](view.mean((1, 2))) for view in batch[0])).isfinite()
            return self.criterion(*z)

    control = hosts.negative_control()("uniform(num_negatives=2)")
    hosts.trainer(callbacks=[control], max_epochs=1).fit(Looking(None), hosts.loader())
