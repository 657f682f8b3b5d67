"""Moving averages in a Triton program, against a loop over samples, step after step."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn.functional import normalize

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.averages import average_
from negplug.kernels.averages.sorting import average_by_sorting

STEPS = {
    "some come again": [[5, 3, 9, 5, 3], [9, 1, 1, 5, 0]],
    "all alike": [[4] * 40, [4] * 3],
    "one": [[0], [7], [0]],
    "ascending": [list(range(20)), list(range(19, -1, -1))],
}


def empty_bank(width):
    return torch.zeros(24, width), torch.full((3, 24), -1)


def naive(bank, slots, keys, names, momentum):
    rows, kept = bank
    for index in sorted(set(names[1].tolist())):
        mine = (names[1] == index).nonzero()[:, 0]
        mean = normalize(keys[mine].double().mean(0), dim=0)
        if index in slots:
            old = rows[slots[index]].double()
            mean = normalize(momentum * old + (1 - momentum) * mean, dim=0)
        slot = slots.setdefault(index, len(slots))
        rows[slot], kept[:, slot] = mean.float(), names[:, mine[0]]


@pytest.mark.parametrize("width", [4, 130])
@pytest.mark.parametrize("name", STEPS)
def test_averages_equal_a_loop(name, width):
    found, by_sorting, wanted, slots = *(empty_bank(width) for _ in range(3)), {}
    generator = torch.Generator().manual_seed(width)
    for step in STEPS[name]:
        indexes = torch.tensor(step)
        names = torch.stack([indexes + 50, indexes, torch.arange(len(step))])
        keys = normalize(torch.randn(len(step), width, generator=generator), dim=1)
        needed = average_(*found, keys, names, 0.3, -1)
        needed_by_sorting = average_by_sorting(*by_sorting, keys, names, 0.3, -1)
        naive(wanted, slots, keys, names, 0.3)
        assert needed == needed_by_sorting == len(slots)
        for bank in (found, by_sorting):
            torch.testing.assert_close(bank[0], wanted[0])
            assert torch.equal(bank[1], wanted[1])


def test_nothing_is_written_beyond_the_room():
    rows, names = empty_bank(4)
    keys = normalize(torch.ones(30, 4), dim=1)
    arriving = torch.stack([torch.arange(30)] * 3)
    for average in (average_, average_by_sorting):
        assert average(rows.clone(), names.clone(), keys, arriving, 0.5, -1) == 30
    average_(rows, names, keys, arriving, 0.5, -1)
    assert sorted(names[1, :23].tolist()) == list(range(23))
    assert names[1, 23] >= 23


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [(4, 0), (4, 129), (0, 3)])
def test_a_key_that_is_not_finite_spoils_the_slot_of_its_own_sample_alone(bad, at):
    indexes = torch.tensor([5, 3, 9, 5, 3, *range(10, 45)])
    keys = normalize(torch.randn(40, 130, generator=torch.Generator().manual_seed(0)), dim=1)
    names = torch.stack([indexes, indexes, indexes])
    found, wanted = ((torch.zeros(48, 130), torch.full((3, 48), -1)) for _ in range(2))
    for spoilt in (False, True):
        if spoilt:
            keys[at] = bad
        average_(*found, keys, names, 0.3, -1)
        average_by_sorting(*wanted, keys, names, 0.3, -1)
    torch.testing.assert_close(found[0], wanted[0], equal_nan=True)
    assert torch.equal(found[1], wanted[1])
    hurt = found[0].isnan().any(1)
    assert found[1][1][hurt].tolist() == [int(indexes[at[0]])]
