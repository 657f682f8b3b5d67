"""Strata: labels or a table by data set index, and what an anchor of a small one is told."""

from __future__ import annotations

import sys
import warnings

import naive
import numpy as np
import pytest
import torch
from choosing import Given, batch_of, unit
from device import DEVICE
from settling import settled

from negplug import ContrastiveLoss, Negatives, Rows
from negplug.samplers.stratified import Stratified


def test_a_table_by_data_set_index_is_as_good_as_labels(tmp_path):
    indexes = torch.tensor([3, 11, 0, 7, 9, 4, 1, 8])
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    table = torch.full((12,), 9)
    table[indexes] = labels
    np.save(tmp_path / "classes.npy", table.numpy().astype(np.uint8))
    by_label = batch_of(8, labels=labels, indexes=indexes)
    by_table = batch_of(8, indexes=indexes)
    expected = Stratified(4).sample(by_label).choice.columns
    for by in (table, table.int(), str(tmp_path / "classes.npy")):
        sampler = Stratified(4, by=by)
        assert sampler.wants_indexes
        assert not sampler.wants_labels
        assert torch.equal(sampler.sample(by_table).choice.columns, expected)
        assert not sampler.state_dict()
    assert not Stratified(4).wants_indexes
    assert Stratified(4).wants_labels
    sampler = Stratified(4, by=table)
    table.zero_()
    assert torch.equal(sampler.sample(by_table).choice.columns, expected)


def test_rows_without_an_index_are_of_another_stratum():
    batch = batch_of(4, indexes=torch.arange(4))
    indexes = torch.tensor([-1, -1, -1, 0, 0, 1, 2, 3], device=DEVICE)
    part = Negatives(Rows(unit(8), torch.full((8,), -1, device=DEVICE), indexes))
    table = torch.tensor([1, 1, 1, -1])
    with pytest.warns(UserWarning, match=r"an anchor of unknown stratum \(-1\) has 0 of the 4"):
        drawn = Stratified(8, by=table, source=Given(part)).sample(batch)
    own = [
        set(row[:4][keep[:4]].tolist())
        for row, keep in zip(drawn.choice.columns, drawn.mask, strict=True)
    ]
    assert own == [{3, 4, 5, 6}, {3, 4, 5, 6}, {3, 4, 5, 6}, set()] * 2
    assert {0, 1, 2, 7} == set(drawn.choice.columns[0, 4:].tolist())
    assert drawn.mask[:, 4:].all()


def test_a_stratum_that_is_too_small():
    z = naive.embeddings(2, 8)
    message = r"asks for 3 negatives of the anchor's own stratum, but no anchor .* more than 2;"
    with pytest.raises(ValueError, match=r"same=0\.5 of num_negatives=6 " + message):
        ContrastiveLoss("stratified(num_negatives=6)")(*z, labels=torch.arange(8) // 2)
    with pytest.raises(ValueError, match=r"asks for 1 negatives of other strata, but .* than 0;"):
        ContrastiveLoss("stratified(num_negatives=2)")(*z, labels=torch.zeros(8).long())
    loss_fn = ContrastiveLoss("stratified(num_negatives=6)")
    labels = torch.tensor([4, 4, 4, 4, 7, 7, 3, 3])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            loss_fn(*z, labels=labels)
    assert [str(warning.message) for warning in caught] == [
        f"stratified: an anchor of stratum {stratum} has 2 of the 3 negatives of the anchor's own "
        f"stratum that same=0.5 of num_negatives=6 asks for; all of them are used"
        for stratum in (3, 7)
    ]
    # A ragged batch, in which nobody has enough, is no error any more.
    with pytest.warns(UserWarning, match="stratum 4 has 2 of the 3"):
        loss_fn(*naive.embeddings(2, 4), labels=torch.tensor([4, 4, 7, 7]))


@pytest.mark.parametrize(("labels", "lacking"), [([0, 0, 0, 1], []), ([0, 0, 1, 2], [1, 2])])
def test_a_queue_is_waited_for_in_silence_and_then_held_to_its_word(labels, lacking):
    # Of 24 rows 6 are of a label that one of four samples has.
    asked = 16 if lacking else 12
    loss_fn = ContrastiveLoss(f"stratified(num_negatives={asked}, source=queue(size=24))")
    said = []
    for _ in range(6):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            settled(loss_fn, *naive.embeddings(2, 4), labels=torch.tensor(labels)).backward()
        loss_fn.end_step()
        said.append([str(warning.message) for warning in caught if "stratif" in str(warning)])
    # Empty, then 8, 16 and 24 rows: the fifth step is the first that offers no more.
    assert [len(each) for each in said] == [0, 0, 0, 0, len(lacking), 0]
    for message, stratum in zip(said[4], lacking, strict=True):
        assert f"stratum {stratum} has 6 of the 8 negatives" in message


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (np.array([0.5, 1.0]), TypeError, "must hold integers, got .*float64"),
        (np.array([True, False]), TypeError, "must hold integers, got .*bool"),
        (np.array([[0], [1]]), ValueError, r"must be one-dimensional and not empty, got \(2, 1\)"),
        (np.array([], dtype=int), ValueError, r"one-dimensional and not empty, got \(0,\)"),
        (np.array([0, -2]), ValueError, "strata from 0 upwards, or -1 where unknown, got -2"),
        (np.array(["a", {}], dtype=object), ValueError, "holds no array of numbers"),
        (b"no array", ValueError, "holds no array of numbers"),
        (b"", ValueError, "holds no array of numbers"),
    ],
)
def test_bad_tables(tmp_path, content, error, message):
    path = tmp_path / "table.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(error, match=message):
        Stratified(4, by=str(path))
    if isinstance(content, np.ndarray) and content.dtype != object:
        with pytest.raises(error, match=message):
            Stratified(4, by=torch.from_numpy(content))


def test_a_table_without_numpy(tmp_path, monkeypatch):
    np.save(tmp_path / "table.npy", np.arange(4))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError, match=r"is read with NumPy, which is not installed"):
        Stratified(4, by=str(tmp_path / "table.npy"))
