"""What reads values on the host gives what torch operations give, and writes the same."""

from __future__ import annotations

import pytest
import torch

from negplug.kernels.chain.moves import gathered, gathered_on_host
from negplug.kernels.random.hashing import integers_on_host, mix_, shift
from negplug.kernels.samples import host, sorting
from negplug.kernels.table.host import entries_on_host, write_on_host
from negplug.kernels.table.indexing import indexed_entries, write_by_index
from negplug.kernels.views.gathering import gathered_scores, spread_by_rows
from negplug.kernels.views.host import scores_on_host, spread_on_host

EMPTY = 1 << 62
SAMPLES = {"apart": [5, 3, 9, 4, 0], "one": [7], "twice": [5, 3, 5, 0], "alike": [2] * 4}


def pool(name, views, mixed):
    """Index and view of each row, view after view as in a batch, or in any order."""
    indexes = torch.tensor(SAMPLES[name]).repeat(views)
    of_view = torch.arange(views).repeat_interleave(len(SAMPLES[name]))
    order = torch.randperm(len(indexes), generator=torch.Generator().manual_seed(3))
    return (indexes[order], of_view[order]) if mixed else (indexes, of_view)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_those_of_sorting(name, views, mixed):
    indexes, of_view = pool(name, views, mixed)
    arguments = indexes, of_view, views, EMPTY
    samples, rows = found = host.grouped_on_host(*arguments)
    assert all(map(torch.equal, found, sorting.grouped_by_sorting(*arguments)))
    for seed in (0, -5, 2**62):
        for empty in (EMPTY, None):
            shuffled = host.shuffled_on_host(samples, rows, seed, empty)
            wanted = sorting.shuffled_by_sorting(samples, rows, seed, empty)
            assert all(map(torch.equal, shuffled, wanted))
    wanted = torch.tensor([[5, 3, -1], [7, 1, 2]])
    columns = host.found_on_host(shuffled[0], wanted)
    assert torch.equal(columns, sorting.found_by_sorting(shuffled[0], wanted))


@pytest.mark.parametrize("seed", [0, 17, -(2**63), 2**63 - 1])
def test_hashes_wrap_as_those_of_torch(seed):
    states = torch.arange(1, 50).mul_(0x9E3779B97F4A7C15 - 2**64).add_(seed)
    spare = torch.empty_like(states)
    wanted = shift(mix_(states, spare), 1, spare)
    assert torch.equal(torch.from_numpy(integers_on_host(49, seed)), wanted)


def tables():
    draw = torch.Generator().manual_seed(0)
    numbers, vectors = (torch.randn(2, 9, *more, generator=draw) for more in ((), (4,)))
    return [torch.randint(99, (2, 9), generator=draw), numbers, numbers > 0, vectors]


@pytest.mark.parametrize(
    ("views", "indexes"),
    [([0, 1, 1, 0], [3, 8, 0, 4]), ([0, 2, 1, 0], [3, 0, 12, 4]), ([0, 1, 0, 1], [5, 5, 5, 5])],
    ids=["inside", "outside", "twice"],
)
def test_entries_are_those_of_torch(views, indexes):
    place, empty = (torch.tensor(views), torch.tensor(indexes)), [-1, -torch.inf, False, 0.0]
    found = entries_on_host(tables(), *place, empty)
    assert all(map(torch.equal, found, indexed_entries(tables(), *place, empty)))
    if max(views) < 2:
        values = [entry.flip(0) for entry in found]
        values[1] = values[1].double()
        ours, theirs = tables(), tables()
        write_on_host(ours, *place, values)
        write_by_index(theirs, *place, values)
        assert all(map(torch.equal, ours, theirs))
        assert not torch.equal(ours[1], tables()[1])


def test_entries_of_a_table_without_room_are_empty():
    nothing = [torch.empty(0, 0, dtype=torch.int64), torch.empty(0, 0, 3)]
    state, vector = entries_on_host(nothing, torch.tensor([0, 1]), torch.tensor([4, 2]), [-1, 0.5])
    assert state.tolist() == [-1, -1]
    assert torch.equal(vector, torch.full((2, 3), 0.5))


def test_entries_of_chains_are_picked():
    values, place = torch.arange(15.0).view(3, 5), torch.tensor([4, -1, 0])
    for each in (values, values.T.contiguous().T, values[:1].expand(3, -1)):
        found = gathered_on_host(each, place, -values[:, 0])
        assert torch.equal(found, gathered(each, place, -values[:, 0]))


def pools(views, count, anchors, dtype):
    """Logits of rows and anchors, the rows of samples, and each anchor's own sample."""
    draw = torch.Generator().manual_seed(count)
    logits = 5 * torch.randn(views * count, anchors, generator=draw, dtype=dtype)
    rows = torch.randperm(views * count, generator=draw).view(views, count)
    return logits, rows, torch.randint(-1, count, (anchors,), generator=draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 4, 3), (2, 5, 10), (3, 1, 6)], ids=str)
def test_samples_weigh_what_torch_says(sizes, dtype):
    logits, rows, own = pools(*sizes, dtype)
    samples = torch.arange(sizes[1]).masked_fill(torch.arange(sizes[1]) == 3, EMPTY)
    ids = torch.arange(sizes[2]) - 1, torch.arange(len(logits)) % 4 - 1
    for missing in (None, (samples, EMPTY)):
        for names in (None, ids):
            asked = logits, rows, own, missing, names
            scores = scores_on_host(*asked)
            torch.testing.assert_close(scores, gathered_scores(*asked))
            weights = scores.softmax(0).nan_to_num(0)
            found = spread_on_host(logits.clone(), rows, scores, weights)
            wanted = spread_by_rows(logits.clone(), rows, scores, weights)
            torch.testing.assert_close(found, wanted)
