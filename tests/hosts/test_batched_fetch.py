"""Data sets that fetch a batch at once: do they give what they are asked for?"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, StackDataset, Subset, TensorDataset

from negplug.hosts.trainer.indexes.batched_fetch import FAULTS, GOOD, UNKNOWN, class_of, verdict_on


class Fetched(Dataset):
    """Samples that draw from the global generators, given as ``how`` has it."""

    def __init__(self, how, label=lambda n: n, alone=True):
        self.images = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
        self.how, self.label, self.alone = how, label, alone

    def __len__(self):
        return 20

    def __getitem__(self, n):
        if not self.alone:
            raise NotImplementedError
        return self.sample(n)

    def __getitems__(self, places):
        return [self.sample(n) for n in self.how(places)]

    def sample(self, n):
        noise = random.random() + np.random.rand() + torch.rand(1)
        return self.images[n] + noise, self.label(n)


WRONG = {
    "sorted": (sorted, "in another order"),
    "reversed": (lambda places: places[::-1], "in another order"),
    "others": (lambda places: [place // 2 for place in places], "in another order"),
    "each once": (lambda places: list(dict.fromkeys(places)), "one sample for each position"),
    "one too few": (lambda places: places[:-1], "one sample for each position"),
}


@pytest.mark.parametrize("label", [lambda n: n, lambda n: 0], ids=["labels", "one label"])
@pytest.mark.parametrize("alone", [True, False], ids=["", "no __getitem__"])
@pytest.mark.parametrize("name", WRONG)
def test_one_that_does_not(name, alone, label):
    how, words = WRONG[name]
    dataset = Fetched(how, label, alone)
    if name == "others" and not (alone and label(1)):
        return  # nobody else says what its samples are, or they look different each time
    for each in (dataset, Subset(dataset, range(2, 19, 2))):
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert words in FAULTS[verdict_on(each, own=False)]
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


class Columns(Fetched):
    def __getitems__(self, places):
        images, labels = zip(*super().__getitems__(places), strict=True)
        return torch.stack(images), list(labels)


@pytest.mark.parametrize("kind", [Fetched, Columns])
@pytest.mark.parametrize("alone", [True, False])
def test_one_that_does(kind, alone):
    assert verdict_on(kind(list, alone=alone), own=False) == GOOD
    assert "in another order" in FAULTS[verdict_on(kind(sorted, alone=alone), own=False)]


@pytest.mark.parametrize("named", [True, False])
def test_a_stack_of_data_sets_is_as_its_parts(named):
    def stacked(how):
        labels = TensorDataset(torch.arange(20))
        parts = {"views": Fetched(how), "label": labels} if named else (labels, Fetched(how))
        return StackDataset(**parts) if named else StackDataset(*parts)

    for each in (stacked(sorted), Subset(stacked(sorted), range(2, 19, 2))):
        assert class_of(each) == "Fetched"
        assert "in another order" in FAULTS[verdict_on(each, own=False)]
    assert verdict_on(stacked(list), own=False) == GOOD
    assert class_of(StackDataset(TensorDataset(torch.ones(3)))) == ""


def test_samples_with_indexes_of_their_own_may_come_in_any_order():
    class Moved(Fetched):
        def __getitems__(self, places):
            of = super().__getitems__(sorted(places))
            return [(image, n) for (image, _), n in zip(of, places, strict=True)]

    for how in (sorted, list, lambda places: places[1:]):
        assert verdict_on(Fetched(how), own=True) == GOOD
    assert "the indexes of others" in FAULTS[verdict_on(Moved(list), own=True)]


def test_what_cannot_be_known():
    class Alike(Fetched):
        def sample(self, n):
            return torch.rand(3)

    class Failing(Fetched):
        def sample(self, n):
            raise OSError("no such file")

    assert verdict_on(Alike(list), own=False) == UNKNOWN
    assert verdict_on(Failing(list), own=False) == UNKNOWN


def test_data_sets_that_fetch_one_by_one_are_not_asked():
    class Silent(TensorDataset):
        def __getitem__(self, n):
            raise AssertionError("a sample was loaded")

    dataset = Silent(torch.ones(9))
    assert class_of(dataset) == class_of(Subset(dataset, [1, 2])) == ""
    assert verdict_on(dataset, own=False) == GOOD
    assert class_of(Subset(Fetched(list), [1])) == "Fetched"
