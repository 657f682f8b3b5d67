"""Batches whose data set indexes cannot be known: the reason is given, nothing is guessed."""

import hosts
import pytest
import torch
from index_recipes import (
    LOADERS,
    Numbered,
    Recording,
    Steps,
    assert_recorded_and_unchanged,
    fit,
    make,
)
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
)

pytestmark = pytest.mark.filterwarnings("ignore")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Numbered())


class Blind(Steps):
    def training_step(self, batch, batch_idx):
        self.seen.append(batch_idx)
        return self.layer(torch.ones(3, device=self.device)).sum()


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
