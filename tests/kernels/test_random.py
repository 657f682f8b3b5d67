"""Distinct integers from streams: each kernel draws the same."""

from __future__ import annotations

import itertools

import pytest
import torch
from kernel_tables import NUMBA

from negplug.kernels.random.marking import marked_integers
from negplug.kernels.random.sorting import sorted_integers

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


@pytest.mark.parametrize(("rows", "count", "bound"), [(1, 1, 4), (9, 3, 12), (50, 40, 160)])
def test_distinct_integers_are_the_first_of_their_streams(rows, count, bound):
    kernels = [sorted_integers, marked_integers, *([compiled_integers] if NUMBA else [])]
    bounds = bound + torch.arange(rows)
    for seed in (0, 2**62 - 1, 12345):
        wanted = []
        for row in range(rows):
            numbers: dict[int, None] = {}
            for number in naive_stream(seed, row):
                numbers[number % int(bounds[row])] = None
                if len(numbers) == count:
                    break
            wanted.append(sorted(numbers))
        for kernel in kernels:
            found = kernel(bounds, count, torch.tensor(seed))
            assert found.sort(1).values.tolist() == wanted


def test_draws_in_parts_are_the_same(monkeypatch):
    from negplug.kernels.random import marking, sorting

    bounds, seed = torch.full((40,), 100), torch.tensor(7)
    whole = sorted_integers(bounds, 20, seed)
    for kernel, module in ((sorted_integers, sorting), (marked_integers, marking)):
        assert torch.equal(kernel(bounds, 20, seed), whole)
        monkeypatch.setattr(module, "_AT_ONCE", {"cpu": 365})
        assert torch.equal(kernel(bounds, 20, seed), whole)
