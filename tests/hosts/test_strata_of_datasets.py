"""A file of strata is of the data set of the run, or of a parent of it if that was said."""

from __future__ import annotations

import hosts
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, random_split

from negplug.hosts.subsets import Parents

pytestmark = pytest.mark.filterwarnings("ignore")
SOLO = bool(hosts.solo_generation())


def trained(dataset, **arguments):
    """Fit and return the strata in use, of the samples that the data set counts."""
    asked = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    control = hosts.negative_control()(f"stratified(num_negatives=2, {asked})")
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    hosts.trainer(callbacks=[control]).fit(hosts.recipe(), loader)
    return control.injection.losses[hosts.site_name()].loss.sampler.strata.metadata.table.tolist()


@pytest.fixture
def table(tmp_path):
    def save(size):
        np.save(tmp_path / "strata.npy", np.arange(size) % 2)
        return str(tmp_path / "strata.npy")

    return save


@pytest.mark.parametrize("size", [23, 25, 48])
def test_another_number_of_samples(table, size):
    message = f"stratified: the metadata has {size} entries, but the data set has 24 samples"
    with pytest.raises(ValueError, match=message):
        trained(hosts.Pairs(), by=table(size))


def test_a_subset_is_a_data_set_of_its_own(table):
    subset = Subset(hosts.Pairs(48), range(10, 34))
    size, other = (48, 24) if SOLO else (24, 48)  # solo-learn's indexes are the parent's
    with pytest.raises(ValueError, match=f"{other} entries, but the data set has {size} samples"):
        trained(subset, by=table(other))
    assert trained(subset, by=table(size)) == [0, 1] * (size // 2)


@pytest.mark.skipif(SOLO, reason="its batches number the parent's samples themselves")
def test_a_table_of_the_parent(table):
    first, _ = random_split(hosts.Pairs(48), [30, 18])
    nested = Subset(first, torch.randperm(30)[:24].tolist())
    places = [first.indices[place] for place in nested.indices]
    assert trained(nested, by=table(48), parent=True) == [place % 2 for place in places]
    with pytest.raises(ValueError, match=r"48 entries, .* taken from has 50 samples"):
        trained(Subset(hosts.Pairs(50), range(24)), by=table(48), parent=True)


def test_no_parent_that_is_known(table):
    dataset = Subset(hosts.Pairs(24), range(24)) if SOLO else hosts.Pairs()
    with pytest.raises(ValueError, match=r"parent=True, but .* is no torch Subset, or unknown"):
        trained(dataset, by=table(24), parent=True)


def test_parents_are_looked_for_once():
    parents, whole = Parents(), hosts.Pairs(10)
    assert parents.of(whole) is parents.of(None) is None
    subset = Subset(whole, [7, 2, 4])
    found = parents.of(subset)
    assert (found.indexes.tolist(), found.size) == ([7, 2, 4], 10)
    assert parents.of(subset) is found
    assert parents.of(Subset(subset, np.array([2, 0]))).indexes.tolist() == [4, 7]
    assert parents.of(Subset(whole, range(1, 3))).indexes.tolist() == [1, 2]
    assert parents.of(whole) is None


@pytest.mark.parametrize("places", [[7, 2, 4], np.array([7, 2, 4]), torch.tensor([7, 2, 4])])
def test_places_that_are_changed_are_read_again(places):
    parents, subset = Parents(), Subset(hosts.Pairs(10), places)
    found = parents.of(subset)
    parents.read_again()
    assert parents.of(subset) is found
    places[1] = 9
    assert parents.of(subset).indexes.tolist() == [7, 2, 4]
    parents.read_again()
    assert parents.of(subset).indexes.tolist() == [7, 9, 4]
