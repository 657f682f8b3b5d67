"""Moves of chains by a compiled loop: those of torch operations around the walk of a plain one."""

from __future__ import annotations

import pytest
import torch
from walks import CASES, SIZES, inputs, naive_walk

from negplug.kernels.chain.moves import weighed_moves
from negplug.kernels.chain.result import Moves

pytest.importorskip("numba")
from negplug.kernels.chain.compiled import compiled_moves

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
