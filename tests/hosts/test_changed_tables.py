"""Whether a data set that changes in place has other samples now."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from negplug.hosts.trainer.dataset.changed_tables import KeptTables


class Kept(Dataset):
    """Whatever attributes it is given; a sample cannot be loaded."""

    def __init__(self, **kept):
        vars(self).update(kept)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        raise AssertionError("no sample is loaded")


def cached(data):
    data.table[3:] = [torch.ones(2)] * 17


def reversed_(data):
    data.table = data.table.flip(0) if isinstance(data.table, torch.Tensor) else data.table[::-1]


def other_fold(data):
    data.table = [f"{number}.png" for number in range(20, 40)]


def shorter(data):
    data.table = data.table[:10] * 2


def moved_on(data):
    data.table = torch.cat([torch.randn(5, *data.table.shape[1:]), data.table[:-5]])


def anew(data):
    data.table = torch.randn(20, 3)


def relabelled(data):
    data.table = [(3 * label + 1) % 4 for label in data.table]


FILES = [f"{number}.png" for number in range(20)]
ROWS = torch.arange(60.0).view(20, 3)
OTHERS = {
    "files in another order": (FILES, reversed_),
    "numbers in another order": (list(range(20)), reversed_),
    "rows in another order": (ROWS, reversed_),
    "pairs in another order": ([(name, 0) for name in FILES], reversed_),
    "another fold": (FILES, other_fold),
    "fewer files, repeated": (FILES, shorter),
    "images of a window that moves on": (torch.arange(180.0).view(20, 9), moved_on),
}
THE_SAME = {
    "nothing": (FILES, lambda data: None),
    "a cache is filled": ([None] * 20, cached),
}
BETWEEN_FITS_ALONE = {
    "features are made anew": (ROWS, anew),
    "labels are made anew": ([n % 4 for n in range(20)], relabelled),
}


INSIDE = {
    "no other": lambda data: data,
    "a subset": lambda data: Subset(data, range(10)),
    "the first of several": lambda data: ConcatDataset([data, Kept(table=["other.png"] * 20)]),
    "the last of several": lambda data: ConcatDataset([Kept(table=[None] * 20), data]),
}


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("name", OTHERS | THE_SAME | BETWEEN_FITS_ALONE)
def test_samples_that_are_others_or_elsewhere(name, inside):
    table, change = (OTHERS | THE_SAME | BETWEEN_FITS_ALONE)[name]
    data = Kept(table=table if isinstance(table, torch.Tensor) else list(table))
    dataset = INSIDE[inside](data)
    kept = KeptTables(dataset)
    change(data)
    assert kept.differ(dataset, between_fits=False) == (name in OTHERS)
    assert kept.differ(dataset, between_fits=True) == (name not in THE_SAME)


def test_a_token_stands_for_all():
    data = Kept(table=FILES, negplug_token="files")
    kept = KeptTables(data)
    other_fold(data)
    assert not kept.differ(data, between_fits=True)
