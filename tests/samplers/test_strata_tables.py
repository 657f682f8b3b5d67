"""Tables of strata: what a file may hold, and whose samples its entries are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from choosing import batch_of

from negplug.contract.dataset import DatasetAccess, ParentSamples
from negplug.samplers.stratified import Stratified


def with_shape(path, shape, dtype="<i8"):
    """Write a file of a few bytes whose header says what it is to hold."""
    with path.open("wb") as file:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))


@pytest.mark.parametrize(
    "shape", [(10**12,), (10**22,), (2**63,), (10**9, 10**9), (True,), ("8",)], ids=str
)
def test_a_header_that_promises_too_much(tmp_path, shape):
    with_shape(tmp_path / "big.npy", shape)
    with pytest.raises(
        ValueError, match=r"by='.*big\.npy' holds no array of numbers that numpy"
    ) as e:
        Stratified(4, by=str(tmp_path / "big.npy"))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [np.array([1, 2**64 - 1], np.uint64), [0, 2**63]])
def test_entries_beyond_int64_are_not_wrapped(tmp_path, content):
    content = np.array(content, dtype=np.uint64)
    np.save(tmp_path / "unsigned.npy", content)
    for by in (str(tmp_path / "unsigned.npy"), torch.from_numpy(content)):
        with pytest.raises(ValueError, match=rf"must be below 2\*\*63, got {content.max()}"):
            Stratified(4, by=by)


@pytest.mark.parametrize("dtype", ["<u8", ">i4", "<u2", "|i1"])
def test_integers_of_any_kind(tmp_path, dtype):
    np.save(tmp_path / "table.npy", np.array([3, 1, 2], dtype=dtype))
    assert Stratified(4, by=str(tmp_path / "table.npy")).strata.metadata.table.tolist() == [3, 1, 2]


def test_an_archive_is_no_table(tmp_path):
    np.savez(tmp_path / "tables.npz", a=np.arange(3))
    (tmp_path / "tables.npz").rename(tmp_path / "tables.npy")
    with pytest.raises(ValueError, match=r"is an archive of arrays; save one with numpy\.save"):
        Stratified(4, by=str(tmp_path / "tables.npy"))


INDEXES = torch.tensor([3, 1, 0, 7, 5, 4, 6, 2])
TABLE = torch.tensor([0, 0, 1, 1, 0, 1, 0, 1])


def sampled(sampler, size=None, parent=None):
    return sampler.sample(
        batch_of(8, indexes=INDEXES).within(dataset=DatasetAccess(size, parent=parent))
    ).choice.columns


@pytest.mark.parametrize("size", [7, 9, 1])
def test_a_table_of_another_number_of_samples(size):
    message = f"the metadata has 8 entries, but the data set has {size} samples; give one entry for"
    with pytest.raises(ValueError, match=message):
        sampled(Stratified(4, by=TABLE), size)
    assert torch.equal(sampled(Stratified(4, by=TABLE), 8), sampled(Stratified(4, by=TABLE)))


def test_a_table_of_the_parent():
    places = torch.tensor([9, 11, 2, 5, 8, 0, 1, 10])
    whole = torch.full((12,), 7)
    whole[places] = TABLE
    parent = ParentSamples(places, 12)
    with pytest.raises(ValueError, match="has 8 samples; parent=True says that it is of the data"):
        sampled(Stratified(4, by=whole), 8, parent)
    sampler = Stratified(4, by=whole, parent=True)
    assert torch.equal(sampled(sampler, 8, parent), sampled(Stratified(4, by=TABLE)))
    other = ParentSamples(places.flip(0), 12)  # of a later epoch
    expected = sampled(Stratified(4, by=TABLE.flip(0)))
    assert torch.equal(sampled(sampler, 8, other), expected)
    assert not torch.equal(sampled(sampler, 8, parent), expected)
    assert sampler.by == Stratified(4, by=whole).by  # what checkpoints and messages call it


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        (None, "parent=True, but the training data set is no torch Subset, or unknown"),
        (ParentSamples(torch.arange(8), 9), "has 8 entries, but .* taken from has 9 samples"),
    ],
)
def test_no_table_of_a_parent(parent, message):
    with pytest.raises(ValueError, match=message):
        sampled(Stratified(4, by=TABLE, parent=True), 8, parent)


def test_parent_is_said_of_tables_alone():
    with pytest.raises(
        ValueError, match="parent=True is said of a file or a tensor, got by='labels'"
    ):
        Stratified(4, parent=True)
    with pytest.raises(TypeError, match="parent must be True or False"):
        Stratified(4, by=TABLE, parent=1)


def test_what_a_damaged_header_says_is_not_repeated_at_length(tmp_path):
    path = tmp_path / "table.npy"
    header = "{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 3000 + "}\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(ValueError, match=r"holds no array of numbers that numpy\.load") as caught:
        Stratified(2, by=str(path))
    assert len(str(caught.value)) < 500 + len(str(path))
