"""Samplers' state is of one model and one data set: another fit starts afresh, or is refused."""

from __future__ import annotations

import copy
import logging
import pickle

import hosts
import pytest
import torch
from fitted import _full_load
from moments import callback
from torch.utils.data import DataLoader, Subset

pytestmark = pytest.mark.filterwarnings("ignore")


class Shifted(hosts.Pairs):
    """Other images than those of ``Pairs``, of the same names and number."""

    def __init__(self, size=24, shift=1.0):
        super().__init__(size)
        self.images = self.images + shift


class AtFirst(hosts.lightning().Callback):
    """Remembers how many rows and steps the samplers begin a fit with."""

    def __init__(self, control):
        self.control, self.rows, self.steps = control, [], []

    def on_train_batch_start(self, trainer, module, batch, number):
        if trainer.current_epoch == number == 0:
            (treated,) = self.control.injection.losses.values()
            counts = [part.count for part in self.control.injection.samplers() if part.remembers]
            self.rows += counts
            self.steps.append(treated.loss.get_extra_state()["step"])


def load(dataset, **kwargs):
    return DataLoader(dataset, batch_size=8, **kwargs)


def fit(control, module, dataset, *callbacks, ckpt_path=None, **kwargs):
    hosts.lightning().seed_everything(0)
    trainer = hosts.trainer(callbacks=list(filter(None, [control, *callbacks])), **kwargs)
    with _full_load():
        trainer.fit(module, load(dataset), ckpt_path=ckpt_path)
    return trainer


def begin(sampler, *fits):
    """Rows and steps at the start of each fit of one callback."""
    control = hosts.negative_control()(sampler)
    first = AtFirst(control)
    for module, dataset in fits:
        fit(control, module, dataset, first)
    return first.rows, first.steps


@pytest.mark.parametrize("sampler", ["queue(size=64)", "memory_bank()"])
def test_a_fold_with_a_model_of_its_own_starts_with_no_keys(sampler, caplog):
    halves = [Subset(hosts.Pairs(), range(12 * n, 12 * n + 12)) for n in range(2)]
    with caplog.at_level(logging.INFO, "negplug"):
        rows, steps = begin(sampler, *((hosts.recipe(), half) for half in halves))
    assert (rows, steps) == ([0, 0], [0, 0])
    assert "starts afresh: its state was of another model" in caplog.text


def test_a_second_fit_of_the_same_model_and_data_continues():
    module = hosts.recipe()
    rows, steps = begin("queue(size=64)", (module, hosts.Pairs()), (module, hosts.Pairs()))
    assert (rows, steps) == ([0, 48], [0, 3])


def test_a_second_fit_of_the_same_model_on_other_images_starts_afresh(caplog):
    module, data = hosts.recipe(), hosts.Pairs()
    with caplog.at_level(logging.INFO, "negplug"):
        rows, steps = begin("queue(size=64)", (module, data), (module, Shifted()), (module, data))
    assert (rows, steps) == ([0, 0, 0], [0, 0, 0])
    assert "its state was of Pairs of 24" in caplog.text
    assert "this is Shifted of 24" in caplog.text


def load_weights(module, weights):
    module.load_state_dict(weights)


def copy_into_data(module, weights):
    """As averages of weights are put in their place, which autograd does not see."""
    for name, parameter in module.named_parameters():
        parameter.data.copy_(weights[name])


@pytest.mark.parametrize("put_back", [load_weights, copy_into_data])
def test_a_model_whose_weights_were_put_back_is_another(put_back):
    control, module = hosts.negative_control()("memory_bank()"), hosts.recipe()
    first, weights = AtFirst(control), copy.deepcopy(module.state_dict())
    for _ in range(2):
        put_back(module, weights)
        fit(control, module, hosts.Pairs(), first)
    assert first.rows == [0, 0]


@pytest.mark.parametrize("by", ["setup", "a checkpoint"])
def test_a_model_that_is_given_other_weights_is_another(by, tmp_path):
    path, control = tmp_path / "untreated.ckpt", hosts.negative_control()("queue(size=64)")
    fit(None, hosts.recipe(), hosts.Pairs()).save_checkpoint(path)
    first, module = AtFirst(control), hosts.recipe()
    weights = copy.deepcopy(module.state_dict())
    if by == "setup":
        module.setup = lambda *_, **__: module.load_state_dict(weights)
    fit(control, module, hosts.Pairs(), first)
    given = {} if by == "setup" else {"ckpt_path": path, "max_epochs": 2}
    fit(control, module, hosts.Pairs(), first, **given)
    assert control.injection.losses[hosts.site_name()].loss.get_extra_state()["step"] == 3


@pytest.mark.parametrize("sampler", [None, "uniform(num_negatives=2)"])
def test_a_run_that_goes_on_with_an_untreated_one_says_so(sampler, tmp_path, caplog):
    path, treated = tmp_path / "before.ckpt", hosts.negative_control()
    before = None if sampler is None else treated(sampler)
    fit(before, hosts.recipe(), hosts.Pairs()).save_checkpoint(path)
    for control in (treated("uniform(num_negatives=2)"), None):
        fit(control, hosts.recipe(), hosts.Pairs(), ckpt_path=path, max_epochs=2)
    said = "the checkpoint is of a run that was not treated"
    assert caplog.text.count(said) == (sampler is None)


class Regression(hosts.lightning().LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(torch.ones(4, 1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_a_model_that_is_left_alone_goes_on_unsaid(tmp_path, caplog):
    path = tmp_path / "before.ckpt"
    fit(None, Regression(), hosts.Pairs()).save_checkpoint(path)
    control = hosts.negative_control()("uniform(num_negatives=2)", from_environment=True)
    fit(control, Regression(), hosts.Pairs(), ckpt_path=path, max_epochs=2)
    assert "leaves Regression alone" in caplog.text
    assert "not treated" not in caplog.text


class Broken(hosts.Pairs):
    def __len__(self):
        raise RuntimeError("no such folder")


@pytest.mark.parametrize("other", [None, hosts.recipe], ids=["this model", "another"])
def test_a_fit_that_fails_before_it_trains_loses_nothing(other):
    control, module = hosts.negative_control()("memory_bank()"), hosts.recipe()
    first = AtFirst(control)
    fit(control, module, hosts.Pairs(), first)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such folder"):
            fit(control, module, Broken(), first)
    fit(control, module, hosts.Pairs(), first, max_epochs=0)  # nothing left to do
    fit(control, *((other(), Shifted()) if other else (module, hosts.Pairs())), first)
    assert first.rows == [0, 0 if other else 24]


class Listed(hosts.Pairs):
    """Takes its samples from a list of files, which it may shuffle in place."""

    def __init__(self):
        super().__init__()
        self.files = [f"{number}.png" for number in range(24)]

    def __getitem__(self, index):
        return super().__getitem__(int(self.files[index].removesuffix(".png")))


def test_a_list_of_files_that_is_shuffled_in_place_is_of_other_samples(caplog):
    class Shuffle(hosts.lightning().Callback):
        def on_train_epoch_end(self, *_):
            data.files.reverse()

    data, module = Listed(), hosts.recipe()
    control = hosts.negative_control()("memory_bank()")
    with pytest.raises(ValueError, match="from epoch 1 on the training data set is Listed of 24"):
        fit(control, module, data, Shuffle(), max_epochs=2)
    control = hosts.negative_control()("memory_bank()")
    first = AtFirst(control)
    with caplog.at_level(logging.INFO, "negplug"):
        for _ in range(2):
            fit(control, module, data, first)
            data.files.reverse()
    assert first.rows == [0, 0]
    assert "its state was of Listed of 24" in caplog.text


def test_gradient_moments_are_of_one_model():
    snr, first = callback("GradientSNR"), hosts.recipe()
    kept = []
    for module in (first, first, hosts.recipe()):
        before = snr.moments
        fit(hosts.negative_control()("in_batch()"), module, hosts.Pairs(), snr)
        kept.append(snr.moments is before)
    assert kept == [True, True, False]


def each_epoch(datasets):
    """A recipe that trains on other data in each epoch, in three epochs."""
    module, left = hosts.recipe(), list(datasets)
    module.train_dataloader = lambda: load(left.pop(0))
    return module


def reloading(sampler, datasets):
    hosts.lightning().seed_everything(0)
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=3, reload_dataloaders_every_n_epochs=1)
    trainer.fit(each_epoch(datasets))
    return control.injection.losses[hosts.site_name()].calls


@pytest.mark.parametrize(
    "sampler", ["memory_bank()", "emc2(out_of_batch='cached')", "queue(size=64)"]
)
def test_other_images_in_the_middle_of_a_run_are_refused(sampler):
    message = r"keeps state under data set indexes of Pairs of 24.*from epoch 1 on.* Shifted of 24"
    with pytest.raises(ValueError, match=message):
        reloading(sampler, [hosts.Pairs(), Shifted(), hosts.Pairs()])


def test_a_sampler_without_memory_trains_on_whatever_comes():
    assert reloading("hard(num_negatives=3)", [hosts.Pairs(), Shifted(), Shifted(16)]) == 8


def test_the_same_data_set_may_be_made_anew_every_epoch():
    assert reloading("memory_bank()", [hosts.Pairs() for _ in range(3)]) == 9


def test_another_subset_is_refused_unless_samples_say_their_own_index():
    subsets = [Subset(hosts.Pairs(), range(start, start + 16)) for start in (0, 8, 4)]
    if hosts.site_name() == "criterion":
        with pytest.raises(ValueError, match="Subset of 16 from Pairs of 24"):
            reloading("memory_bank()", subsets)
    else:
        assert reloading("memory_bank()", subsets) == 6


def test_a_subset_that_is_changed_in_place_is_another():
    if hosts.site_name() != "criterion":
        pytest.skip("solo-learn's samples say their own index")
    subset = Subset(hosts.Pairs(), list(range(16)))

    class Resample(hosts.lightning().Callback):
        def on_train_epoch_end(self, *_):
            subset.indices.reverse()

    control = hosts.negative_control()("memory_bank()")
    with pytest.raises(ValueError, match="from epoch 1 on"):
        fit(control, hosts.recipe(), subset, Resample(), max_epochs=2)


@pytest.fixture
def checkpoint(tmp_path):
    """Make the checkpoint of an epoch on a data set."""

    def make(sampler, dataset):
        path = str(tmp_path / "last.ckpt")
        fit(hosts.negative_control()(sampler), hosts.recipe(), dataset).save_checkpoint(path)
        return path

    return make


def resumed(sampler, dataset, path):
    control = hosts.negative_control()(sampler)
    fit(control, hosts.recipe(), dataset, ckpt_path=path, max_epochs=2)
    return control.injection.losses[hosts.site_name()].loss.get_extra_state()["step"]


@pytest.mark.parametrize(
    ("sampler", "other"), [("memory_bank()", Shifted()), ("queue(size=64)", hosts.Pairs(32))]
)
def test_resuming_on_another_data_set_is_refused(checkpoint, sampler, other):
    path = checkpoint(sampler, hosts.Pairs())
    with pytest.raises(ValueError, match=r"indexes of Pairs of 24.*in the run that resumes"):
        resumed(sampler, other, path)


def test_resuming_without_state_per_sample_takes_any_data(checkpoint):
    path = checkpoint("uniform(num_negatives=2)", hosts.Pairs())
    assert resumed("uniform(num_negatives=2)", Shifted(), path) == 6


def test_a_token_says_that_two_data_sets_are_one(checkpoint):
    first, second = hosts.Pairs(), Shifted()
    first.negplug_token = second.negplug_token = "pairs, version 2"
    assert resumed("memory_bank()", second, checkpoint("memory_bank()", first)) == 6


def test_a_checkpoint_that_names_no_data_set_is_read(checkpoint, tmp_path):
    path = checkpoint("memory_bank()", hosts.Pairs())
    saved = torch.load(path, weights_only=False)
    assert saved["callbacks"]["negplug"].pop("dataset").startswith("Pairs of 24, ")
    torch.save(saved, path)
    assert resumed("memory_bank()", Shifted(), path) == 6
    saved["callbacks"]["negplug"]["dataset"] = 3
    torch.save(saved, path)
    with pytest.raises(ValueError, match="names its data set by a int, not a string; the file"):
        resumed("memory_bank()", Shifted(), path)


def test_a_composer_knows_a_subset_by_its_own_samples():
    control = hosts.negative_control()("memory_bank()", compose="random_walk()")
    first, module, data = AtFirst(control), hosts.recipe(), hosts.Pairs()
    for start in (0, 8):
        fit(control, module, Subset(data, range(start, start + 16)), first)
    assert first.rows == [0, 0]


def test_a_callback_that_was_fitted_can_be_copied_and_pickled():
    control, module = hosts.negative_control()("queue(size=64)"), hosts.recipe()
    fit(control, module, hosts.Pairs())
    first = AtFirst(copy.deepcopy(control))
    fit(first.control, module, hosts.Pairs(), first)
    assert first.rows == [0]
    other = pickle.loads(pickle.dumps(control._kept))
    assert other.owner.dataset == control._kept.owner.dataset
    assert not other.owner.is_of(module)
