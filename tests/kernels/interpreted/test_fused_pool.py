"""Log-sum-exp over a pool in Triton: value and gradient against the reference."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn.functional import normalize

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.pool import POOL, Form, pool_logsumexp
from negplug.kernels.pool import question as asked
from negplug.kernels.pool.cuts import Processors
from negplug.kernels.pool.fused import fused_logsumexp, fused_symmetric
from negplug.kernels.pool.reference import full_logsumexp

SIZES = [(1, 1, 1), (5, 3, 16), (70, 150, 63), (130, 65, 64), (33, 200, 65), (64, 64, 128)]
SIZES += [(40, 70, 200), (33, 90, 256), (17, 40, 300), (33, 70, 512), (20, 33, 1024)]


@pytest.fixture(params=[(1, 2**18, 0), (3, 2**16, 2**40)], autouse=True)
def processors(request, monkeypatch):
    """Devices of one size and another: a pool in one part, and in several.

    On the first float32 is multiplied as two float16, and spans of ids are looked at, as in pools
    of many rows.
    """
    *found, many = request.param
    monkeypatch.setattr(Processors, "of", lambda device: Processors(*found))
    monkeypatch.setattr(asked, "_WORTH_SPANNING", many)
    monkeypatch.setattr(asked, "has_quick_halves", lambda device: not many)


def question(rows, keys, width, weighted, seed=0):
    draw = {"generator": torch.Generator().manual_seed(seed)}
    a = normalize(torch.randn(rows, width, **draw), dim=1)
    k = normalize(torch.randn(keys, width, **draw), dim=1)
    anchor_ids, pool_ids = torch.randint(keys, (rows,), **draw), torch.arange(keys)
    # Ids that share their lower 32 bits are different ids.
    pool_ids[: keys // 2] = 1 << 40
    anchor_ids[-1] = 1 << 40
    weight = mask = None
    if weighted:
        shape = (rows, keys) if weighted == "own" else (1, keys)
        weight = torch.randn(shape, **draw)
        mask = torch.rand(rows, keys, **draw) < 0.8
        mask[0] = False
    return a, k, [anchor_ids, pool_ids], [weight, mask]


def compare(ours, theirs, leaves, exact, tolerance):
    none = theirs == -torch.inf
    assert torch.equal(ours == -torch.inf, none)
    scale = theirs[~none].abs().max().clamp(min=1) if (~none).any() else 1.0
    assert ((ours.double() - theirs)[~none].abs() <= tolerance * scale).all()
    weights = torch.linspace(-1, 2, len(ours), dtype=torch.float64)
    # The rows without a negative are part of the sum: their gradient is zero, not NaN.
    found = torch.autograd.grad(
        (ours.masked_fill(none, 0.0) * weights).sum(), leaves, allow_unused=True
    )
    wanted = torch.autograd.grad(
        (theirs.masked_fill(none, 0.0) * weights).sum(), exact, allow_unused=True
    )
    for one, other in zip(found, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm().clamp(min=1e-12)
        assert error <= tolerance or other.norm() < 1e-9


@pytest.mark.parametrize("weighted", ["", "own", "shared"])
@pytest.mark.parametrize(
    ("size", "frozen"),
    # Of a frozen pool all is the same but for its gradient, which comes last.
    [*((size, False) for size in SIZES), *((size, True) for size in SIZES[::4])],
)
def test_pools_equal_the_reference(size, frozen, weighted):
    a, k, ids, weights = question(*size, weighted)
    leaves = [a.requires_grad_(), *([] if frozen else [k.requires_grad_()])]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    pool = k.double() if frozen else exact[1]
    ours = fused_logsumexp(a, k, *ids, 0.1, *weights)
    theirs = full_logsumexp(exact[0], pool, *ids, 0.1, *weights)
    compare(ours, theirs, leaves, exact, 1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 0.02, 0.5, 10.0])
def test_every_temperature_is_exact(temperature):
    a, k, ids, _ = question(40, 130, 32, "")
    ids = [torch.arange(40), torch.full((130,), 39)]  # the last anchor has no negative
    leaves = [a.requires_grad_(), k.requires_grad_()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = fused_logsumexp(a, k, *ids, temperature)
    assert ours.isfinite().sum() == 39
    # The rounding of a similarity, divided by τ, is that of a probability.
    theirs = full_logsumexp(*exact, *ids, temperature)
    compare(ours, theirs, leaves, exact, 2e-7 / temperature + 3e-6)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize(("rows", "width"), [(2, 8), (65, 64), (150, 33), (40, 600)])
def test_symmetric_batches_equal_the_reference(rows, width, temperature):
    z = normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(1)), dim=1)
    ids = torch.arange(rows) // 2
    leaf, exact = z.requires_grad_(), z.detach().double().requires_grad_()
    ours = fused_symmetric(leaf, ids, temperature)
    theirs = full_logsumexp(exact, exact, ids, ids, temperature)
    compare(ours, theirs, [leaf], [exact], 2e-7 / temperature + 3e-6)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("rows", [64, 129, 250])
def test_equal_ids_are_found_whatever_their_spans(rows, order, monkeypatch):
    monkeypatch.setattr(asked, "_WORTH_SPANNING", 0)
    z = normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    ids = torch.arange(rows) // 3 * order  # some of a sample are in two spans
    ids[rows // 2] = ids[0]
    leaf, exact = z.requires_grad_(), z.detach().double().requires_grad_()
    compare(
        fused_symmetric(leaf, ids, 0.1),
        full_logsumexp(exact, exact, ids, ids, 0.1),
        [leaf],
        [exact],
        1e-5,
    )


def test_an_empty_pool_and_rows_that_are_not_contiguous():
    a, k, ids, _ = question(20, 30, 16, "")
    empty = fused_logsumexp(a.requires_grad_(), k[:0], ids[0], ids[1][:0], 0.1)
    assert (empty == -torch.inf).all()
    (gradient,) = torch.autograd.grad(empty, [a], torch.ones(20))
    assert not gradient.any()
    wide = torch.cat([a, a], 1).detach()
    ours = fused_logsumexp(wide[:, :16], k.T.contiguous().T, *ids, 0.1)
    torch.testing.assert_close(ours, fused_logsumexp(a, k, *ids, 0.1))


def test_what_no_program_serves_is_computed_in_torch():
    a, k, ids, _ = question(9, 20, 16, "")
    a, k = a.double(), k.double()
    torch.testing.assert_close(fused_logsumexp(a, k, *ids, 0.1), full_logsumexp(a, k, *ids, 0.1))
    theirs = full_logsumexp(k, k, ids[1], ids[1], 0.1)
    torch.testing.assert_close(fused_symmetric(k, ids[1], 0.1), theirs)


def test_the_programs_are_chosen():
    cpu = torch.device("cpu")
    assert POOL.kernel(cpu, Form(False, False, False)) is fused_logsumexp
    assert POOL.backend(cpu, Form(True, True, False)) == "triton"
    a, k, ids, weights = question(20, 30, 16, "own")
    found = pool_logsumexp(a, k, *ids, 0.1, *weights)
    assert torch.equal(found, fused_logsumexp(a, k, *ids, 0.1, *weights))
    own = pool_logsumexp(k, k, ids[1], ids[1], 0.1, own=True)
    assert torch.equal(own, fused_symmetric(k, ids[1], 0.1))


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_not_a_number_stays_none(symmetric):
    pool = normalize(torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    pool[3, 0] = torch.nan
    ids = torch.arange(32)
    anchors = pool if symmetric else pool[4:12].clone()
    found = pool_logsumexp(anchors, pool, ids[: len(anchors)], ids + 40, 0.1)
    assert found.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pool_without_gradient_may_be_written_to_before_the_backward_pass(dtype):
    a, k, ids, _ = question(20, 33, 16, None)
    a, k = a.to(dtype).requires_grad_(), k.to(dtype)
    value = fused_logsumexp(a, k, *ids, 0.1)
    (wanted,) = torch.autograd.grad(value.sum(), a, retain_graph=True)
    k.zero_()
    (found,) = torch.autograd.grad(value.sum(), a)
    assert torch.equal(found, wanted)
