"""Samples of a pool in Triton: those of torch operations, and loops."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.random.numbers import RandomNumbers
from negplug.kernels.samples import find, group, shuffle
from negplug.kernels.samples.sorting import (
    found_by_sorting,
    grouped_by_sorting,
    shuffled_by_sorting,
)

EMPTY = 1 << 62
POOLS = {
    "two views": [5, 3, 9, 4],
    "one": [7],
    "a sample twice": [5, 3, 5, 0, 3, 5],
    "alike": [2] * 7,
    "many": torch.randint(150, (300,), generator=torch.Generator().manual_seed(0)).tolist(),
    "unknown": [-1, 4, -1],
}


def pool(name, views):
    """Rows of a pool, the views of a sample in any order; and every sample's first of each."""
    indexes = torch.tensor(POOLS[name]).repeat(views)
    view = torch.arange(views).repeat_interleave(len(POOLS[name]))
    order = torch.randperm(len(view), generator=torch.Generator().manual_seed(views))
    indexes, view = indexes[order], view[order]
    first = {}
    for row, who in enumerate(zip(indexes.tolist(), view.tolist(), strict=True)):
        first.setdefault(who, row)
    return indexes, view, first


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("name", POOLS)
def test_rows_are_grouped_by_sample(name, views):
    indexes, view, first = pool(name, views)
    samples, rows = group(indexes, view, views, EMPTY)
    wanted = sorted(set(POOLS[name]))
    missing = len(POOLS[name]) - len(wanted)
    assert samples.tolist() == wanted + [EMPTY] * missing
    for column, sample in enumerate(wanted):
        assert rows[:, column].tolist() == [first[sample, each] for each in range(views)]
    # Rows that are no sample's lie behind, each once.
    assert sorted(rows.flatten().tolist()) == list(range(len(indexes)))
    by_sorting = grouped_by_sorting(indexes, view, views, EMPTY)
    assert sorted(by_sorting[1].flatten().tolist()) == list(range(len(indexes)))
    assert torch.equal(samples, by_sorting[0])
    assert torch.equal(rows[:, : len(wanted)], by_sorting[1][:, : len(wanted)])


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("seed", [0, -5, 2**62])
def test_the_order_is_that_of_the_permutation(name, seed):
    indexes, view, _ = pool(name, 2)
    samples, rows = group(indexes, view, 2, EMPTY)
    found = shuffle(samples, rows, seed, EMPTY)
    assert all(map(torch.equal, found, shuffled_by_sorting(samples, rows, seed, EMPTY)))
    numbers = RandomNumbers(seed, torch.device("cpu"))
    known = samples[samples != EMPTY]
    ordered = torch.cat([known[numbers.permutation(len(known))], samples[len(known) :]])
    seeded = RandomNumbers(seed, torch.device("cpu")).new_seed()
    assert torch.equal(shuffle(samples, rows, seeded, EMPTY)[0], ordered)
    if EMPTY not in samples:
        assert all(map(torch.equal, found, shuffle(samples, rows, seed)))


def test_samples_are_found_or_are_not_there():
    samples = torch.tensor([8, 3, 0, 12, EMPTY, EMPTY])
    wanted = torch.tensor([[3, 12, 4, -1], [0, 8, 13, -2]])
    found = find(samples, wanted)
    assert found.tolist() == [[1, 3, -1, -1], [2, 0, -1, -1]]
    assert torch.equal(found, found_by_sorting(samples, wanted))
    many = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(find(many[:700], many[:, None])[:700, 0], torch.arange(700))
    assert (find(many[:700], many[700:]) == -1).all()
