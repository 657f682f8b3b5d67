"""Alignment and uniformity, against loops over the formulas in float64."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from device import DEVICE
from prepared_rows import prepared

from negplug.diagnostics import (
    alignment,
    uniformity,
)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_equation_1(alpha):
    x, y = (view.detach() for view in naive.embeddings(2, 7))
    u, v = prepared(x, True), prepared(y, True)
    expected = sum((u[i] - v[i]).norm() ** alpha for i in range(7)) / 7
    assert alignment(x, y, alpha).item() == pytest.approx(expected.item(), rel=1e-12)


def potential(x, t, ids):
    u = prepared(x, True)
    pairs = [(i, j) for i in range(len(x)) for j in range(i) if ids[i] != ids[j] or ids[i] == -1]
    return math.log(sum(torch.exp(-t * (u[i] - u[j]) @ (u[i] - u[j])) for i, j in pairs)) - (
        math.log(len(pairs))
    )


@pytest.mark.parametrize("ids", [None, [0, 1, 2, 0, 1, 2, 5], [-1, -1, 4, 4, -7, -7, 3]])
@pytest.mark.parametrize("t", [0.5, 2.0, 10.0])
def test_uniformity_is_equation_2(t, ids):
    (x,) = naive.embeddings(1, 7, seed=2)
    expected = potential(x.detach(), t, range(7) if ids is None else ids)
    given = None if ids is None else torch.tensor(ids, device=DEVICE)
    found = uniformity(x, t, given)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    (gradient,) = torch.autograd.grad(found, x)
    step = 1e-6 * torch.ones_like(x) * torch.arange(16, device=DEVICE)
    moved = uniformity(x + step, t, given)
    assert (moved - found).item() == pytest.approx((gradient * step).sum().item(), rel=1e-3)


def test_uniformity_does_not_underflow():
    x = torch.eye(6)  # all at squared distance 2
    assert uniformity(x, t=500.0).item() == pytest.approx(-1000.0)


def test_the_hypersphere_refuses_what_it_cannot_measure():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="two rows of different ids, got 4 of one"):
        uniformity(x, ids=torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="t must be above 0, got 0"):
        uniformity(x, t=0)
    with pytest.raises(ValueError, match=r"got \[4, 3\] and \[3\]"):
        uniformity(x, ids=torch.arange(3))
    with pytest.raises(ValueError, match=r"got \[4, 3\] and \[3, 3\]"):
        alignment(x, x[1:])
