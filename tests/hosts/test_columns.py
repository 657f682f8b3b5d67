"""Columns of data sets, found by name wherever they are kept."""

from __future__ import annotations

import copy
import gc
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from negplug.hosts.column_classes import as_classes
from negplug.hosts.columns import Columns

WHO = ["ann", "bob", "ann", None, "eve"]
CODES = [0, 1, 0, -1, 2]


class Samples(Dataset):
    """Samples that must not be loaded, and what is kept beside them."""

    def __init__(self, size=5, **kept):
        self.size = size
        vars(self).update(kept)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        raise AssertionError("a sample was loaded")


class Frame:
    """A table with named columns of arrays, as libraries of data frames have it."""

    def __init__(self, **columns):
        self._columns = columns

    @property
    def columns(self):
        return np.array(list(self._columns))

    def __len__(self):
        return len(next(iter(self._columns.values())))

    def __iter__(self):
        return iter(self._columns)

    def __getitem__(self, name):
        return self._columns[name]


class Named(Samples):
    """A data set whose columns are its own, as in Hugging Face's library."""

    column_names = ("image", "patient_id")

    def __getitem__(self, name):
        assert name == "patient_id", "images would be decoded"
        return WHO


class Transformed(Named):
    """The same with a transform, which makes something else of what is read."""

    def __getitem__(self, name):
        raise AssertionError("images would be decoded")

    def with_format(self, kind):
        assert kind is None
        return Named()


class Property(Samples):
    @property
    def patient_id(self):
        return np.array(WHO, dtype=object)


KEPT = {
    "a list": Samples(patient_id=WHO),
    "an array": Samples(patient_id=np.array(WHO, dtype=object)),
    "a column of shape [n, 1]": Samples(patient_id=np.array(WHO, dtype=object)[:, None]),
    "a property": Property(),
    "a mapping": Samples(metadata={"patient_id": WHO, "age": [3, 4]}),
    "a frame": Samples(table=Frame(patient_id=np.array(WHO, dtype=object), age=np.arange(5))),
    "columns of its own": Named(),
    "columns under a transform": Transformed(),
    "a wrapper": Samples(dataset=Named(), transform=None),
    "a wrapper of a wrapper": Samples(inner=Samples(source=Samples(patient_id=tuple(WHO)))),
    "twice the same": Samples(patient_id=WHO, table=Frame(patient_id=list(WHO))),
}


@pytest.mark.parametrize("dataset", KEPT.values(), ids=KEPT.keys())
def test_wherever_it_is_kept(dataset):
    assert Columns().of(dataset, "patient_id").tolist() == CODES


def test_subsets_and_joined_data_sets():
    subset = Subset(Subset(Samples(patient_id=WHO), [4, 2, 1, 0]), torch.tensor([0, 1, 3]))
    assert Columns().of(subset, "patient_id").tolist() == [0, 1, 1]  # eve, ann, ann
    joined = ConcatDataset([subset, Named()])
    assert Columns().of(joined, "patient_id").tolist() == [0, 1, 1, 1, 2, 1, -1, 0]
    with pytest.raises(ValueError, match="ConcatDataset of 10 has no column 'patient_id'"):
        Columns().of(ConcatDataset([Named(), Samples()]), "patient_id")


ORDER = [4, 2, 0, 1, 3]


@pytest.mark.parametrize(
    "dataset",
    [
        Samples(order=ORDER, inner=Samples(patient_id=WHO)),
        Samples(order=np.array(ORDER), patient_id=WHO),
        Samples(table=Frame(patient_id=WHO), ids=torch.tensor(ORDER)),
    ],
    ids=["of a wrapper", "an array", "beside a frame"],
)
def test_an_order_beside_a_column_is_warned_of(dataset):
    with pytest.warns(UserWarning, match=r"'patient_id' is taken as Samples keeps it, and not in"):
        assert Columns().of(dataset, "patient_id").tolist() == CODES


@pytest.mark.parametrize("order", [range(5), [0, 1, 2, 3, 3], [5, 4, 3, 2, 1], list("41320")])
def test_what_is_no_order_is_not(order):
    dataset = Samples(order=order, inner=Samples(patient_id=WHO))
    assert Columns().of(dataset, "patient_id").tolist() == CODES


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([3, 1, -1, 1], [3, 1, -1, 1]),
        ([True, False, True, None], [1, 0, 1, -1]),
        ([2.5, float("nan"), 2.5, 7.0], [0, -1, 0, 1]),
        ([b"x", "x", ("a", 1), ("a", 1)], [0, 1, 2, 2]),
        ([1 << 70, 5, 1 << 70, None], [0, 1, 0, -1]),
    ],
)
def test_classes_of_values(values, classes):
    found = as_classes("column", values)
    assert found.dtype == torch.int64
    assert found.tolist() == classes


def test_read_once_until_the_data_set_changes():
    columns, dataset = Columns(), Samples(patient_id=WHO)
    subset = Subset(dataset, [0, 1])
    found = columns.of(subset, "patient_id")
    assert columns.of(subset, "patient_id") is found
    subset.indices = [1, 4]
    assert columns.of(subset, "patient_id").tolist() == [0, 1]
    other = columns.of(Samples(patient_id=[7] * 5), "patient_id")
    assert other.tolist() == [7] * 5
    for copied in (copy.deepcopy(columns), pickle.loads(pickle.dumps(columns))):
        assert copied.of(dataset, "patient_id").tolist() == CODES
    del dataset, subset
    gc.collect()
    assert columns.of(KEPT["a list"], "patient_id").tolist() == CODES


def test_read_again_where_values_may_have_changed():
    columns, dataset = Columns(), Samples(patient_id=[*WHO])
    found = columns.of(dataset, "patient_id")
    dataset.patient_id[0] = "eve"
    assert columns.of(dataset, "patient_id") is found
    columns.read_again()
    again = columns.of(dataset, "patient_id")
    assert again.tolist() == [0, 1, 2, -1, 0]
    columns.read_again()
    assert columns.of(dataset, "patient_id") is again


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (
            Samples(patient=WHO, size_of_x=3),
            ValueError,
            "5 has no column 'patient_id' .* it has patient$",
        ),
        (Samples(), ValueError, "no column 'patient_id' .* it keeps none"),
        (Samples(patient_id=WHO[:4]), ValueError, "no column 'patient_id' with a value for each"),
        (Samples(patient_id="ann b"), ValueError, "no column 'patient_id'"),
        (Samples(patient_id=np.ones((5, 2))), ValueError, "no column 'patient_id'"),
        (SimpleNamespace(patient_id=WHO), ValueError, "SimpleNamespace of None has no column"),
        (Samples(patient_id=[[1]] * 5), TypeError, "'patient_id' holds list, which names no class"),
        (Samples(patient_id=[None] * 5), ValueError, "no known value for any of 5 samples"),
        (
            Samples(patient_id=WHO, table=Frame(patient_id=[1, 2, 3, 4, 5])),
            ValueError,
            "Samples has 2 columns 'patient_id', which differ",
        ),
    ],
)
def test_what_is_no_column(dataset, error, message):
    with pytest.raises(error, match=message):
        Columns().of(dataset, "patient_id")
