"""Logits and weights of chains' states in Triton, against loops."""

from __future__ import annotations

import math
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.states import Compared, compare, view_weights
from negplug.kernels.states.gathering import compared_states, weights_of_known

TAU = 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 9, 37, 8), (3, 5, 6, 150)], ids=str)
def test_states_equal_loops(size, dtype):
    views, length, anchors, width = size
    generator = torch.Generator().manual_seed(length)
    draw = {"generator": generator, "dtype": dtype}
    table = torch.randn(views, length, width, **draw)
    known = torch.rand(views, length, generator=generator) < 0.6
    known[:, 0] = False  # a sample of which nothing is known
    state = torch.randint(-1, length + 2, (anchors,), generator=generator)
    place = torch.randint(-2, 3, (anchors,), generator=generator).clamp(min=-1)
    initial, own = torch.randn(anchors, **draw), torch.randn(anchors, width, **draw)
    weight = torch.rand(anchors, **draw)
    weight[::3] = 0.0
    arguments = table, known, state, place, initial, own, TAU
    found, by_torch = compare(*arguments), compared_states(*arguments)
    for one, other in zip(found[1:], by_torch[1:], strict=True):
        torch.testing.assert_close(one, other)
    weight[found.scores == -torch.inf] = 0.0  # nothing stays at a state of which nothing is known
    weights = view_weights(found, weight)
    torch.testing.assert_close(weights, weights_of_known(by_torch, weight))
    for n in range(anchors):
        outside = state[n] >= 0 and place[n] < 0
        there = outside and state[n] < length
        each = [u for u in range(views) if there and known[u, state[n]]]
        logits = [float(own[n].double() @ table[u, state[n]].double()) / TAU for u in each]
        score = math.log(sum(map(math.exp, logits)) / len(each)) if each else -math.inf
        assert found.scores[n].item() == pytest.approx(score, rel=1e-4, abs=1e-4)
        assert found.initial[n] == (found.scores[n] if outside else initial[n])
        drawn = weight[n].item() if each else 0.0
        assert weights[n].double().exp().sum().item() == pytest.approx(drawn, rel=1e-4)
        for u in each:
            assert found.columns[n, u] == u * length + state[n]
    assert ((found.columns >= 0) & (found.columns < views * length)).all()
    assert isinstance(found, Compared)
