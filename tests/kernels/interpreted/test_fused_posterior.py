"""The expected logit of draws in Triton: value and gradients of torch operations and of a loop."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn.functional import normalize

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.posterior import WeightedDraws, expectation

TAU = 0.3


def question(anchors, entries, width, dtype):
    """Draws from a whole pool, from columns of another and from columns of the first."""
    generator = torch.Generator().manual_seed(anchors + width)
    draw = {"generator": generator, "dtype": dtype}
    a, first, second = (
        normalize(torch.randn(n, width, **draw), dim=1).requires_grad_() for n in (anchors, 9, 4)
    )
    ids = torch.randint(-1, 6, (9,), generator=generator)
    own = torch.randint(6, (anchors,), generator=generator)
    whole = torch.randn(9, anchors, **draw).T - 1
    whole[:, 2] = -torch.inf
    few = torch.randn(anchors, entries, **draw) - 40 * (torch.arange(anchors) % 3)[:, None]
    mask = torch.rand(anchors, entries, generator=generator) < 0.6
    columns = [torch.randint(n, (anchors, entries), generator=generator) for n in (4, 9)]
    own[0], whole[0], mask[0] = 77, -torch.inf, False  # draws nothing
    draws = [
        WeightedDraws(whole, None, ids=(own, ids)),
        WeightedDraws(few, mask, columns=columns[0]),
        WeightedDraws(few[:, :1], mask.T.contiguous().T, columns=columns[1]),
    ]
    return a, [first, second, first], draws


def naive(a, pools, draws):
    values = []
    for i, anchor in enumerate(a):
        value, total = 0.0 * anchor.sum(), 0.0
        for pool, drawn in zip(pools, draws, strict=True):
            entries = range(len(pool) if drawn.columns is None else drawn.columns.shape[1])
            for entry in entries:
                row = entry if drawn.columns is None else drawn.columns[i, entry]
                if drawn.ids is not None and drawn.ids[0][i] == drawn.ids[1][entry]:
                    continue
                if drawn.mask is not None and not drawn.mask[i, entry]:
                    continue
                weight = drawn.log_weight.expand(len(a), len(entries))[i, entry].exp()
                value, total = value + weight * (anchor @ pool[row]) / TAU, total + weight
        values.append(value if total else value - torch.inf)
    return torch.stack(values)


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
    a, pools, draws = question(6, 2, 8, torch.float32)
    frozen = [pool.detach() for pool in pools]
    wanted = torch.autograd.grad(expectation(a, pools, draws, TAU)[1:].sum(), a)
    found = torch.autograd.grad(expectation(a, frozen, draws, TAU)[1:].sum(), a)
    torch.testing.assert_close(found, wanted)
    pools[1].grad = None
    expectation(a.detach(), [frozen[0], pools[1], frozen[2]], draws, TAU)[1:].sum().backward()
    assert pools[1].grad.abs().sum() > 0
