"""Data set indexes of training batches, recorded without changing the training."""

from itertools import chain

import hosts
import pytest
import ranks
import torch
from index_recipes import (
    LOADERS,
    SIZE,
    TRAINERS,
    Numbered,
    Recording,
    Steps,
    assert_recorded_and_unchanged,
    fit,
    make,
    sampled,
)
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Subset,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", LOADERS)
def test_records_the_indexes_and_changes_nothing(name):
    assert_recorded_and_unchanged(lambda callbacks: fit(LOADERS[name](), callbacks))


@pytest.mark.parametrize("options", TRAINERS)
@pytest.mark.parametrize("name", ["plain", "persistent"])
def test_under_options_of_the_trainer(name, options):
    assert_recorded_and_unchanged(
        lambda callbacks: fit(LOADERS[name](), callbacks, **TRAINERS[options])
    )


@pytest.mark.parametrize("name", ["no length", "no length, workers"])
def test_of_unknown_length_up_to_a_limit(name):
    # Lightning knows the end then, and looks no batch ahead.
    assert_recorded_and_unchanged(
        lambda callbacks: fit(LOADERS[name](), callbacks, **TRAINERS["limit"])
    )


@pytest.mark.parametrize("options", [{}, TRAINERS["reload"]], ids=["once", "reload"])
@pytest.mark.parametrize("name", ["plain", "workers"])
def test_loader_of_the_module_made_early(name, options):
    # ``estimated_stepping_batches`` sets the loader up in ``configure_optimizers``.
    def run(callbacks):
        return fit(None, callbacks, lambda: Steps(LOADERS[name], estimate=True), **options)

    assert_recorded_and_unchanged(run)


@pytest.mark.parametrize("name", ["plain", "workers"])
@pytest.mark.parametrize("shared", [False, True])
def test_validation_within_the_epoch(name, shared):
    def run(callbacks):
        loader = LOADERS[name]()
        return fit(loader, callbacks, val=loader if shared else make(), val_check_interval=2)

    assert_recorded_and_unchanged(run)


@pytest.mark.parametrize("name", ["plain", "workers"])
@pytest.mark.parametrize("moment", ["on_train_batch_end", "on_train_epoch_end"])
def test_resumed(name, moment, tmp_path):
    class Saving(hosts.lightning().Callback):
        pass

    def save(self, trainer, *args):
        if trainer.global_step in (8, 12):  # six batches in an epoch
            trainer.save_checkpoint(path)

    path = tmp_path / "resume.ckpt"
    setattr(Saving, moment, save)
    fit(LOADERS[name](), [Saving()], max_steps=12 if moment == "on_train_epoch_end" else 8)
    assert_recorded_and_unchanged(
        lambda callbacks: fit(LOADERS[name](), callbacks, ckpt_path=path, max_epochs=4)
    )


class Writing(Recording):
    """Leaves each rank's run in a file."""

    def __init__(self, folder, record):
        super().__init__()
        self.folder = folder
        self.record = record

    def setup(self, trainer, pl_module, stage):
        if self.record:
            super().setup(trainer, pl_module, stage)

    def on_train_batch_start(self, *args):
        if self.record:
            super().on_train_batch_start(*args)

    def on_train_end(self, trainer, pl_module):
        run = {
            "seen": pl_module.seen,
            "recorded": self.recorded,
            "parameters": hosts.parameters(pl_module),
            "state": torch.get_rng_state(),
        }
        torch.save(run, self.folder / f"{self.record}-{trainer.global_rank}")

    def teardown(self, trainer, pl_module, stage):
        if self.record:
            super().teardown(trainer, pl_module, stage)


def batch_sampled():
    return sampled(BatchSampler(RandomSampler(range(SIZE)), 4, drop_last=False))


@pytest.mark.parametrize("loader", [make, LOADERS["persistent"], batch_sampled])
def test_two_processes(loader, tmp_path):
    def train():
        for record in (True, False):
            writing = Writing(tmp_path, record)
            fit(None, [writing], lambda: Steps(loader), strategy="ddp_fork", devices=2)

    ranks.apart(train)
    epochs = []
    for rank in range(2):
        treated, untreated = (torch.load(tmp_path / f"{r}-{rank}") for r in (True, False))
        assert treated["recorded"] == treated["seen"] == untreated["seen"]
        assert torch.equal(treated["parameters"], untreated["parameters"])
        assert torch.equal(treated["state"], untreated["state"])
        flat = list(chain.from_iterable(treated["seen"]))
        assert len(flat) == 3 * SIZE // 2
        epochs.append([flat[first : first + SIZE // 2] for first in range(0, len(flat), SIZE // 2)])
    for first, second in zip(*epochs, strict=True):
        assert set(first) | set(second) == set(range(SIZE))
    # The distributed sampler shuffles by the epoch that set_epoch brings.
    assert epochs[0][0] != epochs[0][1] != epochs[0][2]


def test_subset():
    positions = [20, 3, 7, 11, 5, 16, 2]
    recording = Recording()
    loader = DataLoader(Subset(Numbered(), positions), batch_size=3, shuffle=True)
    module = fit(loader, [recording])
    assert [[positions[i] for i in batch] for batch in recording.recorded] == module.seen


def test_lightly_dataset():
    data = pytest.importorskip("lightly.data")
    from torchvision.datasets import FakeData
    from torchvision.transforms import ToTensor

    class Named(Steps):
        def training_step(self, batch, batch_idx):
            self.seen.append([int(name.split("_")[-1].split(".")[0]) for name in batch[2]])
            return self.layer(batch[0].flatten(1)[:, :3]).mean()

    images = FakeData(size=SIZE, image_size=(3, 8, 8), transform=ToTensor())
    loader = DataLoader(data.LightlyDataset.from_torch_dataset(images), batch_size=4, shuffle=True)
    recording = Recording()
    module = fit(loader, [recording], Named)
    assert recording.recorded == module.seen
    assert sorted(chain.from_iterable(module.seen[:6])) == list(range(SIZE))
