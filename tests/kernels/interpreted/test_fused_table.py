"""Entries of a table in Triton, against loops over them."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.table import read_entries, write_entries
from negplug.kernels.table.indexing import indexed_entries, write_by_index


def tables(height, width, numbers):
    generator = torch.Generator().manual_seed(height + width)
    return [
        torch.randint(-1, 99, (height, width), generator=generator),
        torch.randn(height, width, generator=generator),
        torch.rand(height, width, generator=generator) < 0.5,
        torch.randn(height, width, numbers, generator=generator),
    ]


EMPTY = [-1, -torch.inf, False, 0.0]
SIZES = [(2, 40, 16, 70), (3, 9, 5, 33), (1, 1, 1, 1), (2, 300, 130, 17), (2, 6, 3, 0)]


def names(height, width, count, seed):
    # Few places, so that most are written again; some lie outside.
    generator = torch.Generator().manual_seed(seed)
    views = torch.randint(height + 1, (count,), generator=generator)
    return views, torch.randint(-1, width + 2, (count,), generator=generator)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_entries_equal_a_loop(size):
    *shape, count = size
    own = tables(*shape)
    views, indexes = names(*shape[:2], count, 1)
    for found, table, empty in zip(
        read_entries(own, views, indexes, EMPTY), own, EMPTY, strict=True
    ):
        assert found.dtype == table.dtype
        for entry, view, index in zip(found, views.tolist(), indexes.tolist(), strict=True):
            inside = view < table.shape[0] and 0 <= index < table.shape[1]
            wanted = table[view, index] if inside else torch.full_like(entry, empty)
            assert torch.equal(entry, wanted)


@pytest.mark.parametrize("size", SIZES[:4], ids=str)
def test_the_last_of_equal_places_is_written(size):
    *shape, count = size
    own, wanted = tables(*shape), tables(*shape)
    views, indexes = names(*shape[:2], count, 2)
    values = read_entries(tables(*shape), *names(*shape[:2], count, 3), EMPTY)
    values[1], values[3] = values[1].double(), values[3].T.contiguous().T
    for row, (view, index) in enumerate(zip(views.tolist(), indexes.tolist(), strict=True)):
        if view < shape[0] and 0 <= index < shape[1]:
            for table, rows in zip(wanted, values, strict=True):
                table[view, index] = rows[row].to(table.dtype)
    write_entries(own, views, indexes, values)
    assert all(map(torch.equal, own, wanted))


def test_torch_operations_write_the_same():
    for seed in range(5):
        (views, indexes), own, other = names(1, 20, 60, seed), tables(2, 25, 4), tables(2, 25, 4)
        indexes = indexes.clamp(min=0)
        values = read_entries(own, views, indexes.flip(0), EMPTY)
        write_entries(own, views, indexes, values)
        write_by_index(other, views, indexes, values)
        assert all(map(torch.equal, own, other))
        found = indexed_entries(other, views + 1, indexes, EMPTY)
        assert all(map(torch.equal, found, read_entries(own, views + 1, indexes, EMPTY)))


def test_nothing_is_read_of_an_empty_table():
    own = [torch.zeros(0, 0), torch.zeros(0, 0, 3)]
    found = read_entries(own, torch.tensor([0, 1]), torch.tensor([4, 0]), [-torch.inf, 0.5])
    assert found[0].tolist() == [-torch.inf] * 2
    assert found[1].tolist() == [[0.5] * 3] * 2
