"""Under autocast a GPU multiplies in float16 and adds in float32, of whatever type autocast is."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn.functional import normalize

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug import ContrastiveLoss
from negplug.kernels.pool import question as asked
from negplug.kernels.pool.fused import fused_logsumexp, fused_symmetric
from negplug.kernels.pool.reference import full_logsumexp
from negplug.kernels.precision import under_autocast, without_autocast

CPU = torch.device("cpu")
BOUND = 5e-4  # of a pool's part alone: sums of random rows, of which little remains


def unit(rows, width, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=draw), dim=1).requires_grad_()


def cast(function, *arguments, dtype=torch.bfloat16):
    with torch.autocast("cpu", dtype), without_autocast(CPU):
        assert under_autocast()
        return function(*arguments)


def error(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("upstream", [1.0, 1e-9, 2.0**20])
@pytest.mark.parametrize(("rows", "width"), [(300, 128), (130, 33), (70, 512)])
def test_symmetric_batches(rows, width, upstream, monkeypatch):
    monkeypatch.setattr(asked, "_WORTH_SPANNING", 0)
    z, ids = unit(rows, width), torch.arange(rows) // 2
    exact = z.detach().double().requires_grad_()
    ours, theirs = cast(fused_symmetric, z, ids, 0.1), full_logsumexp(exact, exact, ids, ids, 0.1)
    assert (ours.double() - theirs).abs().max() < 1e-3
    # The gradient of some anchors is a millionth of that of others.
    weights = torch.logspace(-6, 0, rows, dtype=torch.float64) * upstream
    (found,) = torch.autograd.grad((ours * weights.float()).sum(), z)
    (wanted,) = torch.autograd.grad((theirs * weights).sum(), exact)
    assert 1e-6 < error(found, wanted) < BOUND


@pytest.mark.parametrize("temperature", [1e-3, 0.019, 0.02, 10.0])
def test_steep_and_flat_softmaxes(temperature):
    z, ids = unit(130, 64), torch.arange(130) // 2
    exact = z.detach().double().requires_grad_()
    ours = cast(fused_symmetric, z, ids, temperature)
    theirs = full_logsumexp(exact, exact, ids, ids, temperature)
    assert (ours.double() - theirs).abs().max() < 1e-3 / min(temperature, 1)
    (found,) = torch.autograd.grad(ours.sum(), z)
    (wanted,) = torch.autograd.grad(theirs.sum(), exact)
    assert found.isfinite().all()
    # A similarity's rounding, divided by τ, is that of a probability.
    assert error(found, wanted) < BOUND + 2e-4 / temperature


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pools(dtype):
    a, k = unit(40, 64), unit(500, 64, seed=1)
    ids = torch.arange(40), torch.arange(500)
    exact = [each.detach().double().requires_grad_() for each in (a, k)]
    ours = cast(fused_logsumexp, a, k, *ids, 0.1, dtype=dtype)
    found = torch.autograd.grad(ours.mean(), [a, k])
    wanted = torch.autograd.grad(full_logsumexp(*exact, *ids, 0.1).mean(), exact)
    assert all(1e-6 < error(one, other) < BOUND for one, other in zip(found, wanted, strict=True))


def test_a_gradient_of_zero_and_one_that_overflows():
    z, ids = unit(20, 16), torch.arange(20)
    ours = cast(fused_symmetric, z, ids, 0.1)
    (none,) = torch.autograd.grad(ours, z, torch.zeros(20), retain_graph=True)
    assert not none.any()
    (lost,) = torch.autograd.grad(ours, z, torch.full((20,), torch.inf))
    assert not lost.isfinite().any()  # a GradScaler finds it


@pytest.mark.parametrize("graph", [False, True])
def test_a_loss_under_autocast(graph):
    torch._dynamo.reset()
    z = [torch.randn(150, 128, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    z[1] = z[0] + 0.5 * z[1]
    exact = [view.double().requires_grad_() for view in z]
    loss_fn = ContrastiveLoss(temperature=0.1)
    wanted = torch.autograd.grad(loss_fn(*exact), exact)
    function = torch.compile(loss_fn, fullgraph=True, backend="aot_eager") if graph else loss_fn

    def errors(on):
        views = [view.requires_grad_() for view in z]
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            loss = function(*views)
        found = torch.autograd.grad(loss, views)
        return [error(one, other) for one, other in zip(found, wanted, strict=True)]

    assert all(1e-6 < each < 2e-4 for each in errors(on=True))
    assert all(each < 3e-6 for each in errors(on=False))
    assert not under_autocast()
