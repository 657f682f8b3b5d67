"""Lightning's tuners try the treated recipe, and leave it as it was."""

from __future__ import annotations

import importlib

import hosts
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")

LR = 0.05
SAMPLERS = ["filtered(by='labels')", "memory_bank()", "uniform(num_negatives=2)"]

callbacks = importlib.import_module(f"{hosts.framework()}.callbacks")
Tuner = importlib.import_module(f"{hosts.framework()}.tuner.tuning").Tuner


class Search(callbacks.LearningRateFinder):
    """Tries the recipe's own rate alone, without an early stop: an empty bank has no loss."""

    def __init__(self, epoch=None):
        super().__init__(LR, LR, num_training_steps=5, early_stop_threshold=None, update_attr=False)
        self.epoch = epoch
        self.tried = None

    def on_fit_start(self, trainer, pl_module):
        if self.epoch is None:
            self.lr_find(trainer, pl_module)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            self.lr_find(trainer, pl_module)


class Data(hosts.lightning().LightningDataModule):
    batch_size = 4

    def train_dataloader(self):
        return hosts.loader(batch_size=self.batch_size)

    def val_dataloader(self):
        return []


class Recipe:
    """A recipe, and the losses of its training steps."""

    def __init__(self):
        torch.manual_seed(0)
        self.model, self.losses = hosts.recipe(), []
        step = self.model.training_step

        def training_step(batch, batch_idx):
            loss = step(batch, batch_idx)
            self.losses.append(float(loss))
            return loss

        self.model.training_step = training_step
        self.model.configure_optimizers = lambda: torch.optim.SGD(self.model.parameters(), lr=LR)

    def fit(self, *given, data=None):
        """Train two epochs; return the losses of all steps, a tuner's included."""
        self.losses.clear()
        trainer = hosts.trainer(callbacks=list(given), max_epochs=2)
        trainer.fit(self.model, hosts.loader() if data is None else data)
        return list(self.losses)


@pytest.fixture(autouse=True)
def files_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a tuner keeps the weights in a file


def _control(sampler):
    return hosts.negative_control()(sampler)


@pytest.mark.parametrize("ahead", [True, False], ids=["finder_ahead", "finder_behind"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finder_tries_what_is_trained_then(sampler, ahead):
    plain = Recipe().fit(_control(sampler))
    given = [_control(sampler), Search()]
    tuned = Recipe().fit(*(reversed(given) if ahead else given))
    tries = len(tuned) - len(plain)
    assert tries >= 5
    assert tuned[:3] == plain[:3]
    assert tuned[tries:] == plain


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_fit_after_a_tuner_is_the_fit_without_it(sampler):
    plain = Recipe().fit(_control(sampler))
    recipe, control = Recipe(), _control(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=2)
    search = {"min_lr": LR, "max_lr": LR, "num_training": 5, "update_attr": False}
    search["early_stop_threshold"] = None
    Tuner(trainer).lr_find(recipe.model, hosts.loader(), **search)
    assert recipe.losses[:3] == plain[:3]
    assert recipe.fit(control) == plain


def test_a_finder_between_epochs_leaves_the_samplers_alone():
    plain = Recipe().fit(_control("memory_bank()"))
    tuned = Recipe().fit(_control("memory_bank()"), Search(epoch=1))
    assert tuned[:3] == plain[:3]
    assert tuned[-3:] == plain[3:]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_batch_sizes_are_tried_on_the_treated_recipe(sampler):
    recipe, data = Recipe(), Data()
    finder = callbacks.BatchSizeFinder(steps_per_trial=2, init_val=4, max_trials=2)
    tuned = recipe.fit(finder, _control(sampler), data=data)
    assert data.batch_size == finder.optimal_batch_size
    assert tuned[-2 * (24 // data.batch_size) :] == Recipe().fit(_control(sampler), data=data)


def test_state_of_the_fit_before_a_tuner_is_kept():
    plain, control = Recipe(), _control("queue(size=1000)")
    plain.fit(control)
    goes_on = plain.fit(control)
    recipe, control = Recipe(), _control("queue(size=1000)")
    recipe.fit(control)
    assert recipe.fit(control, Search())[-len(goes_on) :] == goes_on


def test_a_tuner_that_fails_leaves_the_model_untreated():
    recipe, search = Recipe(), Search()
    with pytest.raises(ValueError, match="num_negatives"):
        recipe.fit(_control("uniform(num_negatives=99)"), search)
    assert "lr_find" not in vars(search)
    assert recipe.fit() == Recipe().fit()
