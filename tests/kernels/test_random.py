"""Distinct integers from streams: each kernel draws the same."""

from __future__ import annotations

import itertools

import pytest
import torch
from kernel_tables import NUMBA

from negplug.kernels.random import floyd
from negplug.kernels.random.floyd import floyd_integers

if NUMBA:
    from negplug.kernels.random.compiled import compiled_integers
GAMMA = 0x9E3779B97F4A7C15


def mix(state):
    """SplitMix64's output function in Python's own integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def naive_stream(seed, row):
    stream = mix((seed + row * GAMMA) % 2**64)
    return (mix((stream + place * GAMMA) % 2**64) >> 1 for place in itertools.count())


def test_the_output_function_is_splitmix64s():
    # The generator's published first outputs for the seed 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [mix((1234567 + (n + 1) * GAMMA) % 2**64) for n in range(3)] == known


def naive_floyd(seed, row, bound, count):
    taken = []
    stream = naive_stream(seed, row)
    for last in range(bound - count, bound):
        number = next(stream) % (last + 1)
        taken.append(last if number in taken else number)
    return taken


@pytest.mark.parametrize(
    ("rows", "count", "bound"), [(1, 1, 1), (9, 3, 3), (9, 5, 6), (60, 40, 50), (50, 40, 4000)]
)
def test_distinct_integers_are_floyds(rows, count, bound):
    kernels = [floyd_integers, *([compiled_integers] if NUMBA else [])]
    bounds = bound + torch.arange(rows)
    for seed in (0, 2**62 - 1, 12345, -7):
        wanted = [naive_floyd(seed, row, int(bounds[row]), count) for row in range(rows)]
        assert all(len(set(row)) == count for row in wanted)
        for kernel in kernels:
            assert kernel(bounds, count, seed).tolist() == wanted


def test_rows_of_fewer_get_all_there_are_and_zeros():
    bounds = torch.tensor([3, 0, 5, 6, 1])
    wanted = [[0, 1, 2, 0, 0], [0] * 5, naive_floyd(8, 2, 5, 5), naive_floyd(8, 3, 6, 5), [0] * 5]
    for kernel in (floyd_integers, *([compiled_integers] if NUMBA else [])):
        assert kernel(bounds, 5, 8).tolist() == wanted


def test_draws_in_parts_are_the_same(monkeypatch):
    bounds = torch.full((40,), 100)
    whole = floyd_integers(bounds, 20, 7)
    monkeypatch.setattr(floyd, "_AT_ONCE", {"cpu": 365})
    assert torch.equal(floyd_integers(bounds, 20, 7), whole)
