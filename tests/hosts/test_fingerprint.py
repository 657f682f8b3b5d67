"""Data sets are told apart by what they keep in memory; no sample is loaded for it."""

from __future__ import annotations

import functools
import ntpath
import posixpath
from pathlib import Path

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from negplug.hosts.trainer.dataset import paths
from negplug.hosts.trainer.dataset.fingerprint import Several, dataset_of, of_dataset


class Kept(Dataset):
    """Whatever attributes it is given; a sample cannot be loaded."""

    def __init__(self, size, **kept):
        self.size = size
        vars(self).update(kept)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        raise AssertionError("a fingerprint loads no sample")


class Other(Kept):
    """The same under another name."""


class Arrow:
    """A table of Hugging Face's, which shows nothing of what it holds unless it is read."""

    __slots__ = ("labels",)

    def __init__(self, labels):
        self.labels = labels

    def __getitem__(self, places):
        return Arrow([self.labels[place] for place in places])

    def to_pydict(self):
        return {"image": [b"png"] * len(self.labels), "label": self.labels}


class Stored(Kept):
    """A data set of Hugging Face's, as far as it is asked for."""

    column_names = ("image", "label")

    def with_format(self, kind):
        assert kind == "arrow", "images would be decoded"
        return self.table


def images(seed, size=20):
    return torch.randn(size, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def folder(root, size=20, kinds=("cat", "dog")):
    return [(f"{root}/{kinds[n % 2]}/{n}.png", n % 2) for n in range(size)]


HALF = list(range(10))
ANCHOR = Path.cwd().anchor
EQUAL = {
    "images": lambda: Kept(20, images=images(0)),
    "tensors": lambda: TensorDataset(images(0), torch.arange(20)),
    "arrays in a dictionary": lambda: Kept(20, data={"x": images(0).numpy()}),
    "subset": lambda: Subset(Kept(20, images=images(0)), HALF),
    "two sets": lambda: ConcatDataset([Kept(20, images=images(n)) for n in range(2)]),
    "made-up images": lambda: Kept(20, seed=3, split="train"),
    "a list of samples": lambda: list(images(0)),
    "labels": lambda: Kept(20, targets=[n % 3 for n in range(20)]),
    "stored in columns": lambda: Stored(20, table=Arrow([*range(20)])),
}


@pytest.mark.parametrize("make", EQUAL.values(), ids=EQUAL)
def test_a_data_set_that_is_made_anew_is_the_same(make):
    assert of_dataset(make()) == of_dataset(make())


DIFFERENT = {
    "length": (Kept(20), Kept(21)),
    "type": (Kept(20), Other(20)),
    "first image": (Kept(20, x=images(0)), Kept(20, x=images(0).index_fill(0, torch.tensor(0), 1))),
    "last target": (Kept(20, y=[0] * 20), Kept(20, y=[0] * 19 + [1])),
    "bfloat16": (Kept(20, x=images(0).bfloat16()), Kept(20, x=images(1).bfloat16())),
    "file names": (Kept(20, samples=folder("/a")), Kept(20, samples=folder("/a", 20, ("x", "y")))),
    "order": (Kept(20, samples=folder("/a")), Kept(20, samples=folder("/a")[::-1])),
    "subset": (Subset(Kept(20), HALF), Subset(Kept(20), [*HALF[1:], 15])),
    "subset of": (Subset(TensorDataset(images(0)), HALF), Subset(TensorDataset(images(1)), HALF)),
    "set inside": (Kept(20, dataset=TensorDataset(images(0))), Kept(20, dataset=Kept(20))),
    "seed": (Kept(20, seed=1), Kept(20, seed=2)),
    "lists of samples": (list(images(0)), list(images(1))),
    "shuffled columns": (
        Stored(20, table=Arrow([*range(20)])),
        Stored(20, table=Arrow([*range(19, -1, -1)])),
    ),
    "several": (Several([TensorDataset(images(0))]), Several([TensorDataset(images(1))])),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_another_data_set_is_another(one, other):
    assert of_dataset(one).content != of_dataset(other).content


@pytest.mark.parametrize("kind", [str, Path])
def test_a_data_set_may_be_moved(kind):
    here, there = (
        Kept(20, root=kind(root), files=[kind(path) for path, _ in folder(root)])
        for root in (f"{ANCHOR}data/pets", f"{ANCHOR}scratch/job 12/pets")
    )
    assert of_dataset(here) == of_dataset(there)


@pytest.mark.parametrize("moved", ["D:\\job 12\\pets", "//server/share/pets", "d:/pets"])
def test_a_data_set_may_be_moved_between_systems(monkeypatch, moved):
    """By Windows' own functions of paths, which are in every Python."""
    monkeypatch.setattr(paths, "path", posixpath)
    here = of_dataset(Kept(20, root="/data/pets", samples=folder("/data/pets")))
    monkeypatch.setattr(paths, "path", ntpath)
    samples = [(file.replace("/", "\\"), label) for file, label in folder(moved)]
    assert of_dataset(Kept(20, root=moved, samples=samples)) == here
    # Of what has no table all plain values count, but for folders.
    assert of_dataset(Kept(20, root=moved, seed=1)) == of_dataset(Kept(20, root="E:/", seed=1))


def test_a_data_set_may_lie_on_two_drives(monkeypatch):
    monkeypatch.setattr(paths, "path", ntpath)
    one, other = (
        of_dataset(Kept(20, samples=folder("C:/pets", 10) + folder(second, 10)))
        for second in ("D:/pets", "D:/wild")
    )
    assert one != other
    assert one == of_dataset(Kept(20, samples=folder("C:\\pets", 10) + folder("D:\\pets", 10)))


def test_only_the_choice_of_a_subset_is_a_selection():
    one, other = (Subset(TensorDataset(images(seed)), HALF) for seed in range(2))
    assert of_dataset(one).selection == of_dataset(other).selection
    moved = Subset(one.dataset, HALF[::-1])
    assert of_dataset(one).selection != of_dataset(moved).selection


def test_a_users_token_stands_for_all():
    one, other = Kept(20, seed=1, negplug_token="pets"), Other(21, seed=2, negplug_token="pets")
    assert of_dataset(one) == of_dataset(other)
    other.negplug_token = 5
    assert of_dataset(one) != of_dataset(other)
    assert str(of_dataset(one)).startswith("negplug_token 'pets'")
    other.negplug_token = [5]
    message = "negplug_token of Other must be a string or an integer, got list"
    with pytest.raises(TypeError, match=message):
        of_dataset(other)


def test_the_name_says_what_it_is():
    subset = Subset(Kept(20), HALF)
    assert of_dataset(subset).name == "Subset of 10 from Kept of 20"


def test_subsets_of_samples_that_say_their_own_index_do_not_count():
    parent = Kept(20)
    loader = torch.utils.data.DataLoader(Subset(parent, HALF))
    assert dataset_of(loader, numbered_inside=True) is parent
    assert dataset_of(loader) is loader.dataset
    assert dataset_of({"a": loader, "b": loader}) == (loader.dataset, loader.dataset)


def test_a_database_is_known_by_the_sizes_of_its_files(tmp_path):
    """Wherever it lies."""

    def database(name, *sizes):
        folder = tmp_path / name
        folder.mkdir()
        for number, size in enumerate(sizes):
            (folder / f"{number}.bin").write_bytes(bytes(size))
        return Kept(20, root=str(folder))

    first, moved = database("a", 30, 40), database("b", 30, 40)
    assert of_dataset(first) == of_dataset(moved)
    assert of_dataset(database("c", 30, 41)) != of_dataset(first)
    file, shorter = (Kept(20, path=f"{tmp_path}/a/{number}.bin") for number in (1, 0))
    assert of_dataset(file) != of_dataset(shorter)
    assert of_dataset(database("many", *range(40))) == of_dataset(database("more", *range(50)))


def by_closure(path):
    return Kept(20, load=lambda n: (path, n))


class Reader:
    def __init__(self, path):
        self.path, self.handle = path, None

    def load(self, n):
        return n


def by_method(path):
    class Closed(Kept):
        def __getitem__(self, index):
            return path

    return Closed(20)


HOLDERS = {
    "path": lambda path: Kept(20, path=path),
    "Path": lambda path: Kept(20, path=Path(path)),
    "closure": by_closure,
    "partial": lambda path: Kept(20, load=functools.partial(open, file=path)),
    "default": lambda path: Kept(20, load=lambda n, path=path: n),
    "reader": lambda path: Kept(20, reader=Reader(path)),
    "method of a reader": lambda path: Kept(20, load=Reader(path).load),
    "its own method": by_method,
    "subset": lambda path: Subset(by_closure(path), HALF),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_a_file_is_known_by_what_is_in_it_however_it_is_held(hold, tmp_path):
    paths = [str(tmp_path / name) for name in ("one", "copy", "other")]
    for path, content in zip(paths, (b"a" * 9000, b"a" * 9000, b"a" * 8999 + b"b"), strict=True):
        Path(path).write_bytes(content)
    one, copy, other = (of_dataset(hold(path)) for path in paths)
    assert one == copy
    assert one.content != other.content
    assert not one.blind


@pytest.mark.parametrize("opened", ["data set", "reader"])
def test_a_file_that_is_opened_meanwhile_changes_nothing(opened, tmp_path):
    (tmp_path / "one").write_bytes(bytes(3000))
    dataset = Kept(20, reader=Reader(str(tmp_path / "one")), handle=None)
    before = of_dataset(dataset)
    holder = dataset if opened == "data set" else dataset.reader
    with open(tmp_path / "one", "rb") as holder.handle:
        assert of_dataset(dataset) == before


def test_tables_in_functions_count_and_settings_of_transforms_do_not():
    def held(seed, scale=2):
        kept = images(seed)
        return Kept(20, load=lambda n: kept[n], transform=functools.partial(pow, scale))

    assert of_dataset(held(0)) == of_dataset(held(0, scale=3))
    assert of_dataset(held(0)).content != of_dataset(held(1)).content


def test_a_data_set_that_holds_nothing_is_known_to():
    class Plain(Dataset):
        def __len__(self):
            return 20

    assert of_dataset(Plain()).blind
    assert not of_dataset(Kept(20, seed=3)).blind
    assert not of_dataset(Kept(20, url="postgres://host/pets")).blind
    named = Plain()
    named.negplug_token = "pets"
    assert not of_dataset(named).blind
