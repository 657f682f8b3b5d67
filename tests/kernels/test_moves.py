"""What chains do in compiled loops equals what they do in torch operations."""

from __future__ import annotations

import pytest
import torch
from walks import CASES, SIZES, inputs, naive_walk

from negplug.kernels.chain.moves import resampled, weighed_moves
from negplug.kernels.chain.result import Moves
from negplug.kernels.states.gathering import compared_states, weights_of_known

pytest.importorskip("numba")
from negplug.kernels.chain.compiled import compiled_moves
from negplug.kernels.chain.resampling import compiled_resampling
from negplug.kernels.states.compiled import compiled_comparison, compiled_weights

BURN_INS = [0.5, 3, 0.7, 0, 0.0] * 2


@pytest.mark.parametrize(("case", "burn_in"), list(zip(CASES, BURN_INS[1:], strict=True)), ids=str)
def test_moves_equal_those_of_a_plain_loop(case, burn_in):
    for seed, (chains, steps) in enumerate(SIZES[:-1]):
        scores, noise, initial, _ = inputs(chains, steps, seed, **case)
        draw = torch.Generator().manual_seed(seed)
        place = torch.randint(-1, steps, (chains,), generator=draw)
        place.masked_fill_(initial == -torch.inf, -1)
        before = [each.clone() for each in (scores, noise, initial, place)]
        found = compiled_moves(scores, noise, initial, place, burn_in)
        assert all(map(torch.equal, (scores, noise, initial, place), before))
        wanted = weighed_moves(naive_walk, scores, noise, initial, place, burn_in)
        for name, one, other in zip(Moves._fields, found, wanted, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=0, msg=name)


def test_a_chain_without_proposals_draws_its_state():
    scores = torch.full((3, 4), -torch.inf)
    initial, place = torch.tensor([0.5, -torch.inf, 0.5]), torch.tensor([-1, -1, 2])
    moves = compiled_moves(scores, torch.ones(3, 4), initial, place, 0.5)
    assert moves.outside.tolist() == [1.0, 0.0, 0.0]
    assert moves.weights.sum(1).tolist() == [0.0, 0.0, 1.0]
    assert moves.last.tolist() == [-1, -1, -1]
    assert moves.accepted.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_are_compared_as_by_torch(dtype):
    draw = torch.Generator().manual_seed(1)
    table = torch.randn(2, 7, 4, generator=draw, dtype=dtype)
    known = torch.rand(2, 7, generator=draw) < 0.6
    state, place = torch.tensor([-1, 0, 3, 6, 9, 2, 5, 1]), torch.tensor([-1, 2, *[-1] * 6])
    initial, anchors = torch.randn(8, dtype=dtype), torch.randn(8, 4, dtype=dtype)
    asked = table, known, state, place, initial, anchors, 0.3
    before = table.clone()
    found, wanted = compiled_comparison(*asked), compared_states(*asked)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(table, before)
    weight = torch.rand(8, 2, generator=draw, dtype=dtype)[:, 0]  # not one block of memory
    weight[[3, 6]] = torch.tensor([0.0, torch.finfo(dtype).tiny], dtype=dtype)
    weight.masked_fill_(wanted.scores == -torch.inf, 0.0)  # nothing stays where nothing is known
    weights = compiled_weights(found, weight)
    torch.testing.assert_close(weights, weights_of_known(wanted, weight))
    assert (weights[[3, 6]] == -torch.inf).all()
    assert weights.exp().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_are_resampled_as_by_torch(dtype):
    draw = torch.Generator().manual_seed(1)
    scores = (9 * torch.randn(6, 5, generator=draw, dtype=dtype)).masked_fill(
        torch.rand(6, 5, generator=draw) < 0.4, -torch.inf
    )
    scores[2], noise = -torch.inf, torch.randn(6, 6, generator=draw, dtype=dtype)
    initial = torch.randn(6, generator=draw, dtype=dtype)
    for state in (initial, torch.full_like(initial, -torch.inf)):
        for place in (torch.full((6,), -1), torch.tensor([4, -1, 0, 2, -1, 1])):
            found = compiled_resampling(scores, noise, state, place)
            for one, other in zip(found, resampled(scores, noise, state, place), strict=True):
                torch.testing.assert_close(one, other, equal_nan=True)
