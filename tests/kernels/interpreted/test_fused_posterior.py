"""The expected logit of draws in Triton: value and gradients of torch operations and of a loop."""

from __future__ import annotations

import os

import pytest
import torch
from weighted_draws import TAU, asked_for_alone, naive, question

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.posterior import expectation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("anchors", "entries", "width"), [(1, 1, 1), (5, 3, 8), (33, 2, 130)])
def test_value_and_gradients_equal_a_loop(anchors, entries, width, dtype, monkeypatch):
    a, pools, draws = question(anchors, entries, width, dtype)
    found = expectation(a, pools, draws, TAU)
    wanted = naive(a, pools, draws)
    upstream = torch.linspace(-1, 2, anchors, dtype=dtype)
    leaves = (a, *pools[:2])
    drawn = wanted > -torch.inf
    assert not drawn[0]
    torch.testing.assert_close(found, wanted)
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    by_torch = expectation(a, pools, draws, TAU)
    torch.testing.assert_close(found, by_torch)
    zeros = {"allow_unused": True, "materialize_grads": True}
    gradients = [
        torch.autograd.grad((value * upstream)[drawn].sum(), leaves, **zeros)
        for value in (found, by_torch, wanted)
    ]
    for one, other, loop in zip(*gradients, strict=True):
        torch.testing.assert_close(one, loop)
        torch.testing.assert_close(other, loop)


def test_only_what_is_asked_for_has_a_gradient():
    asked_for_alone()
