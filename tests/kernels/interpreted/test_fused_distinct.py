"""Distinct draws in Triton: those of torch operations, to the bit."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.random import DISTINCT, fused
from negplug.kernels.random.floyd import floyd_integers
from negplug.kernels.random.fused import fused_integers
from negplug.kernels.random.fused_ids import FusedIds
from negplug.kernels.random.numbers import RandomNumbers
from negplug.kernels.random.others import others_of
from negplug.kernels.random.sorted_ids import SortedIds

CPU = torch.device("cpu")
# Rows, M, least bound: all that there are, a few less, few of many, one.
SIZES = [(1, 1, 1), (9, 3, 3), (9, 5, 6), (17, 20, 26), (9, 20, 2**40), (5, 1, 7), (7, 16, 0)]


@pytest.fixture(params=[2**16, 128], ids=["at once", "in parts"], autouse=True)
def entries(request, monkeypatch):
    monkeypatch.setattr(fused, "_ENTRIES", {"cpu": request.param})


@pytest.mark.parametrize(("rows", "count", "bound"), SIZES)
def test_integers_are_those_of_torch_operations(rows, count, bound):
    # Some rows of the last size have fewer than are asked for.
    bounds = bound + 3 * torch.arange(rows)
    for seed in (-7, 2**62 - 1):
        assert torch.equal(fused_integers(bounds, count, seed), floyd_integers(bounds, count, seed))


def test_so_many_that_sorting_takes_less_time(monkeypatch):
    monkeypatch.setattr(fused, "MOST", 4)
    bounds = 20 + torch.arange(6)
    assert torch.equal(fused_integers(bounds, 5, 3), floyd_integers(bounds, 5, 3))
    monkeypatch.undo()
    assert DISTINCT.kernel(CPU, None).__name__ in ("fused_integers", "compiled_integers")


@pytest.mark.parametrize("served", ["all", "some", "none"])
@pytest.mark.parametrize(("anchors", "pool", "count"), [(6, 9, 2), (20, 30, 12), (3, 1, 1)])
def test_others_are_those_of_torch_operations(anchors, pool, count, served):
    for seed in range(2):
        draw = {"generator": torch.Generator().manual_seed(seed)}
        # Repeated, negative and beyond 32 bits; the last anchor's id is in no row.
        ids = torch.tensor([-9, -3, -1, 0, 5, 2**40, 2**40 + 1])
        pool_ids = ids[torch.randint(len(ids), (pool,), **draw)]
        anchor_ids = ids[torch.randint(len(ids), (anchors,), **draw)]
        anchor_ids[anchor_ids == -1] = -2
        serves = None
        if served != "all":
            serves = (torch.rand(pool, **draw) < 0.6) & (served == "some")
        fused_ids = FusedIds(anchor_ids, pool_ids, serves)
        plain = SortedIds(anchor_ids, pool_ids, serves)
        columns, mask = fused_ids.draw(count, RandomNumbers(seed, CPU))
        wanted, there = plain.draw(count, RandomNumbers(seed, CPU))
        assert torch.equal(columns, wanted)
        assert torch.equal(mask, there)
        assert ((columns >= 0) & (columns < pool)).all()
        drawn = mask.sum(1)
        assert torch.equal(drawn, plain.available.clamp(max=count))
        assert (pool_ids[columns] != anchor_ids[:, None])[mask].all()
        if serves is not None:
            assert serves[columns][mask].all()


def test_a_seed_on_the_device_gives_the_same_draws():
    ids = torch.arange(9) % 5
    there = FusedIds(ids, ids, None).draw(3, RandomNumbers(torch.tensor(12), CPU))
    assert all(map(torch.equal, there, FusedIds(ids, ids, None).draw(3, RandomNumbers(12, CPU))))


def test_the_program_is_chosen():
    ids = torch.arange(9)
    assert isinstance(others_of(ids, ids), FusedIds)
