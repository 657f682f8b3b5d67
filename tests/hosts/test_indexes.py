import copy
import gc
import pickle
import warnings
from itertools import chain

import hosts
import numpy as np
import pytest
import ranks
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
)

from negplug.hosts.trainer.indexes import IndexRecorder

SIZE = 22  # with batches of 4 the last one is smaller


class Numbered(Dataset):
    """Samples that carry their own index, and a draw from the generator of whoever loads them."""

    def __init__(self, size=SIZE):
        self.features = torch.randn(size, 3, generator=torch.Generator().manual_seed(5))

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        return self.features[index] + 0.1 * torch.randn(3), index


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Numbered())


class Steps(hosts.lightning().LightningModule):
    def __init__(self, loader=None, estimate=False):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.make_loader = loader  # None: the loader is given to fit
        self.estimate = estimate
        self.seen = []

    def train_dataloader(self):
        return self.make_loader()

    def training_step(self, batch, batch_idx):
        features, indexes = batch
        self.seen.append(indexes.tolist())
        return self.layer(features).square().mean()

    def validation_step(self, batch, batch_idx):
        self.layer(batch[0])

    def configure_optimizers(self):
        if self.estimate:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recording(hosts.lightning().Callback):
    """Uses the recorder as negplug's callback does."""

    def __init__(self):
        self.recorder = None
        self.recorded = []

    def setup(self, trainer, pl_module, stage):
        if stage == "fit":
            self.recorder = IndexRecorder(trainer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        indexes = self.recorder.advance()
        if indexes is not None:
            assert indexes.dtype == torch.int64
            assert indexes.device.type == "cpu"
        self.recorded.append(None if indexes is None else indexes.tolist())

    def teardown(self, trainer, pl_module, stage):
        self.recorder.remove()

    def on_exception(self, trainer, pl_module, exception):
        self.recorder.remove()


class Flipped:
    """A batch sampler that is none of torch's, without a length, and draws at ``iter``."""

    def __iter__(self):
        order = torch.randperm(SIZE)
        return iter([order[:9], order[9:12], order[12:]])


class Reused:
    """Yields one tensor again and again; without a length, so that Lightning looks ahead."""

    def __init__(self):
        self.batch = torch.zeros(3, dtype=torch.int64)

    def __iter__(self):
        for first in range(5):
            self.batch[:] = torch.tensor([first, 2 * first, 3 * first])
            yield self.batch


def without_three(samples):
    """Lightning passes over a batch that is None, and calls no hook for it."""
    if any(index == 3 for _, index in samples):
        return None
    return torch.utils.data.default_collate(samples)


def make(**kwargs):
    return DataLoader(Numbered(), **({"batch_size": 4, "shuffle": True} | kwargs))


def sampled(batch_sampler, **kwargs):
    return DataLoader(Numbered(), batch_sampler=batch_sampler, **kwargs)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fit(loader, callbacks=(), build=Steps, val=None, ckpt_path=None, **kwargs):
    """Train from a fixed seed; return the module."""
    torch.manual_seed(3)
    module = build()
    kwargs = {"max_epochs": 3, "num_sanity_val_steps": 2 if val else 0} | kwargs
    trainer = hosts.trainer(callbacks=list(callbacks), **kwargs)
    train = {} if loader is None else {"train_dataloaders": loader}
    trainer.fit(module, **train, val_dataloaders=val, ckpt_path=ckpt_path)
    return module


def assert_recorded_and_unchanged(run):
    """``run(callbacks)`` trains and returns the module."""
    recording = Recording()
    treated = run([recording])
    state = torch.get_rng_state()
    untreated = run([])
    assert len(treated.seen) > 3
    assert recording.recorded == treated.seen == untreated.seen
    assert torch.equal(hosts.parameters(treated), hosts.parameters(untreated))
    assert torch.equal(state, torch.get_rng_state())


LOADERS = {
    "plain": make,
    "drop_last": lambda: make(drop_last=True),
    "in order": lambda: make(shuffle=False),
    "own generator": lambda: make(generator=torch.Generator().manual_seed(1)),
    "workers": lambda: make(num_workers=2),
    "persistent": lambda: make(num_workers=2, persistent_workers=True, prefetch_factor=3),
    "with replacement": lambda: make(
        shuffle=False, sampler=WeightedRandomSampler(torch.linspace(0.1, 1, SIZE), 30)
    ),
    "own distributed": lambda: make(
        shuffle=False, sampler=DistributedSampler(Numbered(), num_replicas=2, rank=1)
    ),
    "batch sampler": lambda: sampled(
        BatchSampler(DistributedSampler(Numbered(), num_replicas=2, rank=1), 5, drop_last=False)
    ),
    "no length": lambda: sampled(Flipped()),
    "no length, workers": lambda: sampled(Flipped(), num_workers=1),
    "reused tensor": lambda: sampled(Reused()),
    "list": lambda: sampled([[3, 1], [np.int64(4), 1, 5], np.array([9])]),
    "batches of None": lambda: make(collate_fn=without_three),
    "batches of None, workers": lambda: make(collate_fn=without_three, num_workers=2),
}

TRAINERS = {
    "limit": {"limit_train_batches": 3},
    "fraction": {"limit_train_batches": 0.5},
    "accumulate": {"accumulate_grad_batches": 2},
    "reload": {"reload_dataloaders_every_n_epochs": 1},
    "overfit": {"overfit_batches": 2},
    "steps": {"max_steps": 8},
}


@pytest.mark.parametrize("name", LOADERS)
def test_records_the_indexes_and_changes_nothing(name):
    assert_recorded_and_unchanged(lambda callbacks: fit(LOADERS[name](), callbacks))


@pytest.mark.parametrize("options", TRAINERS)
@pytest.mark.parametrize("name", ["plain", "persistent"])
def test_under_options_of_the_trainer(name, options):
    assert_recorded_and_unchanged(
        lambda callbacks: fit(LOADERS[name](), callbacks, **TRAINERS[options])
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
    for record in (True, False):
        writing = Writing(tmp_path, record)
        fit(None, [writing], lambda: Steps(loader), strategy="ddp_fork", devices=2)
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


class Blind(Steps):
    def training_step(self, batch, batch_idx):
        self.seen.append(batch_idx)
        return self.layer(torch.ones(3)).sum()


class Paired(Dataset):
    def __getitem__(self, key):
        return torch.tensor(key[1])


class Pipeline:
    def __iter__(self):
        return iter(torch.ones(5, 4))


class Cycling(DataLoader):
    def __iter__(self):
        yield from super().__iter__()


REFUSED = {
    "IterableDataset": lambda: DataLoader(Stream(), batch_size=4),
    "batch_size=None": lambda: DataLoader(Numbered(), batch_size=None),
    "collection": lambda: {"a": make(), "b": make()},
    "no torch DataLoader": Pipeline,
    "way of its own": lambda: Cycling(Numbered(), batch_size=4),
    "in_order=False": lambda: make(num_workers=2, in_order=False),
    "no lists of non-negative": lambda: DataLoader(
        Paired(), batch_sampler=[[(0, 1), (0, 2)], [(1, 2)]]
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_gives_the_reason(words):
    recording = Recording()
    module = fit(REFUSED[words](), [recording], Blind)
    assert recording.recorded == [None] * len(module.seen)
    assert len(module.seen) > 3
    assert words in recording.recorder.reason


@pytest.mark.parametrize("batch", [[True, False], [0.0, 1.0], [-1, 2], ["a"], [], 3, slice(2)])
def test_batches_without_indexes(batch):
    class Any(Dataset):
        def __getitems__(self, keys):
            return [torch.ones(1)]

    loader = DataLoader(Any(), batch_sampler=[[0, 1], batch, [2]])
    recording = Recording()
    fit(loader, [recording], Blind, max_epochs=1)
    assert recording.recorded == [[0, 1], None, [2]]
    assert recording.recorder.reason == ""


def test_a_batch_passed_over_by_the_caller_is_no_shift():
    class Seldom(Recording):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx % 3 == 1:
                super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    recording = Seldom()
    module = fit(make(num_workers=2), [recording])
    assert recording.recorded == module.seen[1::3]


@pytest.mark.parametrize("name", ["plain", "workers"])
def test_a_pass_over_the_loader_before_training(name):
    class Clustering(hosts.lightning().Callback):
        def on_train_start(self, trainer, pl_module):
            loader = trainer.train_dataloader
            for _ in getattr(loader, "loaders", loader):
                pass

    assert_recorded_and_unchanged(
        lambda callbacks: fit(LOADERS[name](), [Clustering(), *callbacks])
    )


class Twice(Recording):
    def on_train_batch_start(self, *args):
        super().on_train_batch_start(*args)
        super().on_train_batch_start(*args)


class Holding(Recording):
    def on_train_epoch_start(self, trainer, pl_module):
        loader = trainer.train_dataloader
        self.held = iter(getattr(loader, "loaders", loader))

    def on_train_batch_start(self, *args):
        next(self.held)
        super().on_train_batch_start(*args)


class Late(Recording):
    def setup(self, trainer, pl_module, stage):
        pass

    def on_train_start(self, trainer, pl_module):
        super().setup(trainer, pl_module, "fit")


class Stealing(Recording):
    """Draws a batch behind Lightning's back."""

    def on_train_batch_start(self, trainer, *args):
        loader = trainer.train_dataloader
        sampler = getattr(loader, "loaders", loader).batch_sampler
        (steps,) = sampler._passes
        next(steps)
        super().on_train_batch_start(trainer, *args)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Twice, "out of step"),
        (Stealing, "out of step"),
        (Holding, "2 recorded iterators"),
        (Late, "is not recorded"),
    ],
)
def test_raises_rather_than_guesses(callback, message):
    loader = make()
    own = loader.batch_sampler
    with pytest.raises(RuntimeError, match=message):
        fit(loader, [callback()])
    assert loader.batch_sampler is own


@pytest.mark.parametrize("fails", [False, True])
def test_removal_gives_everything_back(fails):
    class Failing(Steps):
        def training_step(self, batch, batch_idx):
            if fails:
                raise ArithmeticError("stop")
            return super().training_step(batch, batch_idx)

    loader, val = make(num_workers=2, persistent_workers=True), make()
    next(iter(loader))  # an iterator from before the fit, which persistent workers keep
    own = loader.batch_sampler, val.batch_sampler
    for _ in range(2):
        recording, module = Recording(), Failing()
        trainer = hosts.trainer(callbacks=[recording], max_epochs=2)
        before = dict(vars(trainer.strategy))
        if fails:
            with pytest.raises(ArithmeticError):
                trainer.fit(module, loader, val)
        else:
            trainer.fit(module, loader, val)
            assert recording.recorded == module.seen
        recording.recorder.remove()  # once more
        assert vars(trainer.strategy).keys() == before.keys()
        assert (loader.batch_sampler, val.batch_sampler) == own
        assert loader._iterator is None or loader._iterator._index_sampler is own[0]


def test_the_loader_of_validation_is_left_alone():
    class Looking(hosts.lightning().Callback):
        def on_validation_start(self, trainer, pl_module):
            seen.append(val.batch_sampler is own)

    seen, val = [], make()
    own = val.batch_sampler
    fit(make(), [Recording(), Looking()], val=val)
    assert seen == [True] * 4


def test_a_method_put_on_the_strategy_by_others_is_called_and_comes_back():
    calls = []

    def process(loader):
        calls.append(loader)
        return loader

    loader, recording = make(), Recording()
    trainer = hosts.trainer(callbacks=[recording])
    trainer.strategy.process_dataloader = process
    module = Steps()
    trainer.fit(module, loader)
    assert calls == [loader]
    assert recording.recorded == module.seen
    assert trainer.strategy.process_dataloader is process


def test_a_recorder_never_removed_does_not_hinder_the_next():
    class Forgetful(Recording):
        def teardown(self, trainer, pl_module, stage):
            pass

    loader = make()
    own = loader.batch_sampler
    fit(loader, [Forgetful()])
    assert loader.batch_sampler is not own
    assert_recorded_and_unchanged(lambda callbacks: fit(loader, callbacks))
    assert loader.batch_sampler is own


def test_the_recording_sampler_passes_for_the_recorded_one():
    class Looking(hosts.lightning().Callback):
        def on_train_start(self, trainer, pl_module):
            sampler = loader.batch_sampler
            assert sampler is not own
            assert isinstance(sampler, BatchSampler)
            assert (sampler.batch_size, sampler.drop_last) == (4, False)
            assert sampler.sampler is loader.sampler
            assert len(sampler) == len(loader) == 6
            assert not hasattr(sampler, "set_epoch")
            sampler.note = "set by a recipe"
            for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
                assert type(twin) is BatchSampler
                assert twin.batch_size == 4

    loader = make()
    own = loader.batch_sampler
    fit(loader, [Recording(), Looking()])
    assert own.note == "set by a recipe"


def after_a_failed_hook(rank, world):
    def fail():
        raise ArithmeticError("no data")

    # Lightning wraps every batch sampler's __init__ around the hook, and leaves it if that raises.
    with pytest.raises(ArithmeticError):
        fit(None, build=lambda: Steps(fail))
    recording = Recording()
    return fit(make(), [recording]).seen, recording.recorded


def test_after_a_failed_hook():
    ((seen, recorded),) = ranks.run(after_a_failed_hook, 1)
    assert recorded == seen


def test_reloaded_loaders_are_not_kept_alive():
    class Counting(hosts.lightning().Callback):
        def on_train_epoch_start(self, *args):
            gc.collect()
            alive.append(len(recording.recorder._loaders))

    alive, recording = [], Recording()
    callbacks = [recording, Counting()]
    fit(None, callbacks, lambda: Steps(make), max_epochs=5, **TRAINERS["reload"])
    assert alive[-1] <= 2
