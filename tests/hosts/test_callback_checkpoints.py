"""The Lightning callback's part of a checkpoint: resumed bit for bit, or refused."""

from __future__ import annotations

import pickle

import hosts
import pytest
import torch
from fitted import _full_load, fit

from negplug.hosts.cover import Cover
from negplug.hosts.trainer.accumulated_step import AccumulatedStep
from negplug.samplers.queue import Queue
from negplug.samplers.uniform import Uniform

pytestmark = pytest.mark.filterwarnings("ignore")


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    sampler = "uniform(num_negatives=2)"
    straight, _, _ = fit(sampler, max_epochs=4)
    _, _, half = fit(sampler, max_epochs=2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    hosts.lightning().seed_everything(123)  # a new process would not have the old seed
    resumed = hosts.recipe()
    callback = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[callback], max_epochs=4)
    with _full_load():
        trainer.fit(resumed, hosts.loader(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(hosts.parameters(straight), hosts.parameters(resumed))
    state = callback.state_dict()["losses"][hosts.site_name()]["_extra_state"]
    assert (state["step"], state["call"]) == (12, 0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("uniform(num_negatives=3)",), "written with the sampler uniform"),
        (
            ("uniform(num_negatives=2)", "sogclr()"),
            r"written with the objective of the host, this run has sogclr\(\)",
        ),
    ],
)
def test_resuming_with_another_choice_is_refused(tmp_path, choice, message):
    _, _, trainer = fit("uniform(num_negatives=2)")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = hosts.negative_control()(*choice)
    other = hosts.trainer(callbacks=[callback], max_epochs=2)
    with _full_load(), pytest.raises(ValueError, match=message):
        other.fit(hosts.recipe(), hosts.loader(), ckpt_path=str(tmp_path / "last.ckpt"))


def test_a_checkpoint_of_another_callback_is_complete():
    class Saves(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, *_):
            (control,) = [c for c in trainer.callbacks if getattr(c, "state_key", "") == "negplug"]
            self.state = control.state_dict()["losses"][hosts.site_name()]["_extra_state"]

    saves = Saves()
    control = hosts.negative_control()("uniform(num_negatives=2)")
    hosts.trainer(callbacks=[saves, control]).fit(hosts.recipe(), hosts.loader())
    assert (saves.state["step"], saves.state["call"]) == (3, 0)


def test_samplers_made_in_python_are_told_apart_in_checkpoints(tmp_path):
    def made(number, size=16):
        return Uniform(number, source=Queue(size))

    _, _, trainer = fit(made(4), limit_train_batches=1)
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    for other in (made(8), made(4, 24)):
        control = hosts.negative_control()(other)
        longer = hosts.trainer(callbacks=[control], max_epochs=2, limit_train_batches=1)
        message = r"written with the sampler Uniform\(num_negatives=4, .*queue\(size=16"
        with _full_load(), pytest.raises(ValueError, match=message):
            longer.fit(hosts.recipe(), hosts.loader(), ckpt_path=path)
    control = hosts.negative_control()(made(4))
    longer = hosts.trainer(callbacks=[control], max_epochs=2, limit_train_batches=1)
    with _full_load():
        longer.fit(hosts.recipe(), hosts.loader(), ckpt_path=path)
    assert control.state_dict()["losses"][hosts.site_name()]["_extra_state"]["step"] == 2


class Recipe(hosts.lightning().LightningModule):
    """A recipe whose class pickle finds, with its criterion among the hyperparameters."""

    def __init__(self, criterion):
        super().__init__()
        self.save_hyperparameters()
        self.layer, self.criterion = torch.nn.Linear(hosts.IMAGE, 8), criterion

    def training_step(self, batch, batch_idx):
        return self.criterion(*(self.layer(view.mean((1, 2))) for view in batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Saves(hosts.lightning().Callback):
    """Saves the whole model, and a checkpoint, in the middle of a fit."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        torch.save(pl_module, self.folder / "model.pt")
        (self.folder / "given").write_bytes(pickle.dumps(dict(pl_module.hparams)))
        trainer.save_checkpoint(self.folder / "run.ckpt")


@pytest.mark.skipif(
    hosts.solo_generation() == "1.0.2", reason="Lightning 1.9 lets no model in training be pickled"
)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("sampler", ["uniform(num_negatives=2)", "queue(size=64)"])
def test_what_a_recipe_saves_in_training_is_its_own(tmp_path, sampler, accumulate):
    host = hosts.recipe()
    module = Recipe(host.criterion) if hasattr(host, "criterion") else host
    control = hosts.negative_control()(sampler, accumulate=accumulate)
    trainer = hosts.trainer(callbacks=[control, Saves(tmp_path)])
    trainer.fit(module, hosts.loader())
    saved = torch.load(tmp_path / "model.pt", weights_only=False)
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=False)
    given = checkpoint.get("hyper_parameters", {})
    for name in ("model.pt", "given"):
        assert b"negplug" not in (tmp_path / name).read_bytes()
    assert not isinstance(vars(saved).get("training_step"), (Cover, AccumulatedStep))
    if module is not host:
        z = torch.randn(2, 6, 8)
        for criterion in (saved.criterion, given["criterion"]):
            torch.testing.assert_close(criterion(*z), type(criterion)(0.2)(*z))
    again = hosts.negative_control()(sampler)  # is not treated already
    hosts.trainer(callbacks=[again]).fit(saved, hosts.loader())


def stacked(samples):
    """A collate function that is watched."""
    return torch.utils.data.default_collate(samples)


class Data(hosts.lightning().LightningDataModule):
    """A data module that pickle finds; it drags the Trainer along."""

    def train_dataloader(self):
        self.loader = torch.utils.data.DataLoader(hosts.Pairs(), batch_size=8, collate_fn=stacked)
        return self.loader


class Pickles(hosts.lightning().Callback):
    """Pickles the data module as the first step ends, while rows are followed."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not batch_idx:
            data = trainer.datamodule
            # Not every host's model can be pickled, which the Trainer holds.
            kept = data if isinstance(pl_module, Recipe) else data.loader
            self.pickled = pickle.dumps(kept)


@pytest.mark.parametrize("compose", [None, "clustered()"])
def test_a_data_module_that_is_pickled_in_training_has_its_own_loader(compose):
    host, pickles = hosts.recipe(), Pickles()
    module = Recipe(host.criterion) if hasattr(host, "criterion") else host
    control = hosts.negative_control()("queue(size=64)", compose=compose)
    trainer = hosts.trainer(callbacks=[control, pickles], max_steps=1)
    trainer.fit(module, datamodule=Data())
    kept = pickle.loads(pickles.pickled)
    loader = kept.loader if isinstance(kept, Data) else kept
    assert loader.collate_fn is stacked
    assert type(loader.batch_sampler) is torch.utils.data.BatchSampler
    if module is host:
        assert b"negplug" not in pickles.pickled
        return
    again = hosts.negative_control()("queue(size=64)")
    hosts.trainer(callbacks=[again], max_steps=1).fit(Recipe(host.criterion), datamodule=kept)
