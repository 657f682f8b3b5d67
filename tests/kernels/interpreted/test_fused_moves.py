"""Moves of chains in one Triton program: those of torch operations around a walk, and loops."""

from __future__ import annotations

import math
import os

import pytest
import torch
from walks import CASES, SIZES, inputs, naive_walk

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.chain import Moves, chain_moves, pick, resample
from negplug.kernels.chain.moves import resampled, weighed_moves


def places(chains, steps, initial, seed):
    """Columns of the states: of some that are there, of none, and of none where there is none."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(-1, steps, (chains,), generator=generator)
    return place.masked_fill(initial == -torch.inf, -1)


def assert_close(found, wanted):
    for name, one, other in zip(Moves._fields, found, wanted, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-6, atol=1e-7, msg=name)


BURN_INS = [0.5, 3, 0.7, 0, 0.0] * 2


@pytest.mark.parametrize(("case", "burn_in"), list(zip(CASES, BURN_INS[1:], strict=True)), ids=str)
def test_moves_equal_those_of_a_loop(case, burn_in):
    for seed, (chains, steps) in enumerate(SIZES[:-1]):
        scores, noise, initial, _ = inputs(chains, steps, seed, **case)
        place = places(chains, steps, initial, seed)
        before = [each.clone() for each in (scores, noise, initial, place)]
        found = chain_moves(scores, noise, initial, place, burn_in)
        assert all(map(torch.equal, (scores, noise, initial, place), before))
        assert_close(found, weighed_moves(naive_walk, scores, noise, initial, place, burn_in))
        drawn = found.weights.sum(1) + found.outside
        some = ((scores > -torch.inf).any(1) | (initial > -torch.inf)).to(drawn)
        torch.testing.assert_close(drawn, some)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 50.0, 1e-3])
def test_resampling_equals_a_loop(scale, dtype):
    for seed, (chains, steps) in enumerate(SIZES[:-1]):
        scores, _, initial, _ = inputs(chains, steps, seed, scale=scale, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(chains, 1 + steps, dtype=dtype, generator=generator)
        place = places(chains, steps, initial, seed)
        found = resample(scores, noise, initial, place)
        assert_close(found, resampled(scores, noise, initial, place))
        for i in range(chains):
            state = -math.inf if place[i] >= 0 else initial[i].item()
            candidates = [state, *scores[i].tolist()]
            best = max(range(1 + steps), key=lambda c: candidates[c] + noise[i, c].item())
            there = candidates[best] > -math.inf
            assert found.last[i] == (best - 1 if there else -1)


def test_entries_of_rows_that_lie_anyhow():
    values = torch.arange(35.0).view(5, 7)
    place, otherwise = torch.tensor([0, -1, 6, 3, -1]), -torch.arange(5.0)
    wanted = [0.0, -1.0, 20.0, 24.0, -4.0]
    for layout in (values, values.T.contiguous().T):
        assert pick(layout, place, otherwise).tolist() == wanted
    samples = torch.tensor([9, 8, 7, 6, 5, 4, 3]).expand(5, -1)
    assert pick(samples, place, -place - 50).tolist() == [9, -49, 3, 6, -49]
