"""torchgeo's SimCLR and MoCo tasks, whose criterion is Lightly's: treated, as they are."""

from __future__ import annotations

import naive
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

trainers = pytest.importorskip("torchgeo.trainers")
import lightning.pytorch as pl  # noqa: E402
from negplug_adapters import NegativeControl  # noqa: E402


class Seasons(Dataset):
    """Two seasons of a place, one behind the other, as torchgeo's SeasonalContrast data set."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"image": torch.randn(6, 32, 32, generator=generator), "label": index % 4}


SMALL = {"model": "test_resnet", "size": 32, "hidden_dim": 16, "output_dim": 8, "temperature": 0.5}
TASKS = {
    "SimCLRTask": {"version": 1, "layers": 2, "memory_bank_size": 0, "lr": 0.3},
    "MoCoTask 2": {"version": 2, "layers": 2, "memory_bank_size": 0},
    "MoCoTask 3": {"version": 3, "layers": 3, "memory_bank_size": 0, "lr": 1e-2},
}
BANKS = {
    "SimCLRTask": {"version": 2, "layers": 3, "memory_bank_size": 32},
    "MoCoTask 2": {"version": 2, "layers": 2, "memory_bank_size": 32},
}


def task_of(name, **settings):
    torch.set_default_dtype(torch.float32)  # Lightning leaves that of its last run
    torch.manual_seed(0)
    return getattr(trainers, name.split()[0])(**SMALL | settings)


def trained(task, *callbacks, resume=None, **settings):
    """Return the weights and what was logged after an epoch, or more, of three steps."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "max_epochs": 1}
    quiet |= {"log_every_n_steps": 1, **settings}
    trainer = pl.Trainer(callbacks=list(callbacks), **quiet)
    trainer.fit(task, DataLoader(Seasons(), batch_size=8), ckpt_path=resume)
    weights = torch.cat([p.detach().flatten() for p in task.parameters()])
    return weights, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("name", TASKS)
def test_in_batch_equals_the_host_and_a_sampler_treats(name):
    exact = {"precision": "64-true"}
    own, logged = trained(task_of(name, **TASKS[name]), **exact)
    same, treated = trained(task_of(name, **TASKS[name]), NegativeControl("in_batch()"), **exact)
    assert naive.relative(same, own) < 1e-9
    assert treated["train_loss"] == pytest.approx(logged["train_loss"], rel=1e-9)
    control = NegativeControl("uniform(num_negatives=2)")
    few, treated = trained(task_of(name, **TASKS[name]), control, **exact)
    assert treated["train_loss"] < logged["train_loss"] - 0.5
    assert naive.relative(few, own) > 1e-4
    assert control.injection.losses["criterion"].calls == (6 if name == "MoCoTask 3" else 3)


@pytest.mark.parametrize("name", BANKS)
def test_a_queue_has_the_size_of_the_memory_bank(name):
    _, treated = trained(task_of(name, **BANKS[name]), NegativeControl("queue()"), max_epochs=2)
    assert treated["negplug/criterion/num_negatives"] == 31  # but its own past key


RESUMED = {"SimCLRTask": (TASKS, "memory_bank()"), "MoCoTask 2": (BANKS, "queue()")}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_with_what_its_sampler_remembers(name, tmp_path):
    table, sampler = RESUMED[name]
    # The task's own augmentations draw numbers that no checkpoint keeps.
    still = {"augmentations": nn.Identity()}
    if name != "SimCLRTask":
        still = {"augmentation1": nn.Identity(), "augmentation2": nn.Identity()}

    def task():
        return task_of(name, **table[name], **still)

    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    callbacks = (NegativeControl(sampler), keep)
    whole, _ = trained(task(), *callbacks, max_epochs=2, enable_checkpointing=True)
    (first,) = tmp_path.glob("epoch=0.ckpt")
    resumed, _ = trained(task(), NegativeControl(sampler), resume=first, max_epochs=2)
    assert torch.equal(resumed, whole)


def test_the_environment_treats_a_task(monkeypatch):
    monkeypatch.setenv("NEGPLUG_SAMPLER", "uniform(num_negatives=2)")
    _, treated = trained(task_of("SimCLRTask", **TASKS["SimCLRTask"]))
    assert treated["negplug/criterion/num_negatives"] == 2


def test_what_cannot_be_treated_is_an_error():
    with pytest.raises(ValueError, match=r"queue.*size"):
        trained(task_of("SimCLRTask", **TASKS["SimCLRTask"]), NegativeControl("queue()"))
    byol = trainers.BYOLTask(model="test_resnet")
    with pytest.raises(ValueError, match="BYOLTask"):
        trained(byol, NegativeControl("in_batch()"))
