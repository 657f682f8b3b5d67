"""Chosen columns in Triton: value and gradient against the reference."""

from __future__ import annotations

import os

import pytest
import torch
from kernel_tables import pairs

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.chosen import (
    CHOSEN,
    CHOSEN_LOGSUMEXP,
    chosen_logsumexp,
    chosen_similarities,
    launches,
)
from negplug.kernels.chosen.fused import fused_logsumexp, fused_similarities
from negplug.kernels.chosen.reference import gathered_logsumexp, gathered_similarities

# N, M, K, d, and how much a program holds: all that there is, or what a GPU's holds.
MUCH, LITTLE = 2**18, 2**12
SIZES = [(1, 1, 1, 1, LITTLE), (7, 5, 5, 63, MUCH), (33, 70, 40, 64, MUCH), (5, 9, 300, 65, MUCH)]
SIZES += [(70, 3, 64, 128, MUCH), (9, 70, 17, 64, LITTLE), (6, 20, 9, 200, LITTLE)]
SIZES += [(6, 17, 9, 256, LITTLE), (3, 5, 7, 512, LITTLE), (4, 6, 5, 1024, LITTLE)]


@pytest.fixture
def size(request, monkeypatch):
    *size, held = request.param
    monkeypatch.setattr(launches, "_HELD", {"cpu": held})
    return size


def compare(found, wanted, leaves, exact, weights, tolerance):
    none = wanted == -torch.inf
    assert torch.equal(found == -torch.inf, none)
    close(found.masked_fill(none, 0.0), wanted.masked_fill(none, 0.0), tolerance)
    # The rows of nothing are part of the sum: their gradient is zero, not NaN.
    losses = [(value.masked_fill(none, 0.0) * weights).sum() for value in (found, wanted)]
    got = torch.autograd.grad(losses[0], leaves)
    expected = torch.autograd.grad(losses[1], exact, retain_graph=True)
    for one, other in zip(got, expected, strict=True):
        close(one, other, tolerance)


def close(found, wanted, tolerance):
    assert (found.double() - wanted).norm() <= tolerance * wanted.norm() + 1e-12


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str, indirect=True)
def test_similarities_equal_the_reference(size, masked):
    a, k, chosen, mask, weights = pairs(*size, torch.float32)
    mask = mask if masked else None
    exact = [x.detach().double().requires_grad_() for x in (a, k)]
    wanted = gathered_similarities(*exact, chosen, mask)
    compare(fused_similarities(a, k, chosen, mask), wanted, [a, k], exact, weights, 2e-6)


@pytest.mark.parametrize(("masked", "weighted"), [(False, ""), (True, "own"), (True, "shared")])
@pytest.mark.parametrize("size", SIZES, ids=str, indirect=True)
def test_log_sum_exps_equal_the_reference(size, masked, weighted):
    a, k, chosen, mask, weights = pairs(*size, torch.float32)
    mask[-1] = False
    mask = mask if masked else None
    weight = weights.float() if weighted == "own" else weights[:1].float() if weighted else None
    exact = [x.detach().double().requires_grad_() for x in (a, k)]
    wanted = gathered_logsumexp(*exact, chosen, 0.1, weight, mask)
    found = fused_logsumexp(a, k, chosen, 0.1, weight, mask)
    assert not masked or found[-1] == -torch.inf
    compare(found, wanted, [a, k], exact, weights[:, 0], 1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 0.02, 0.5, 10.0])
def test_every_temperature_is_exact(temperature):
    a, k, chosen, mask, weights = pairs(20, 30, 16, 64, torch.float32)
    exact = [x.detach().double().requires_grad_() for x in (a, k)]
    wanted = gathered_logsumexp(*exact, chosen, temperature, None, mask)
    found = fused_logsumexp(a, k, chosen, temperature, None, mask)
    # The rounding of a similarity, divided by τ, is that of a probability.
    compare(found, wanted, [a, k], exact, weights[:, 0], 2e-7 / temperature + 3e-6)
    # At infinite temperature the weights alone are summed.
    counted = fused_logsumexp(a, k, chosen, torch.inf, None, mask)
    torch.testing.assert_close(counted, mask.sum(1).float().log())


@pytest.mark.parametrize("masked", [False, True])
def test_a_pool_that_is_the_anchors_gets_both_gradients(masked):
    z, _, chosen, mask, weights = pairs(30, 7, 30, 16, torch.float32)
    mask = mask if masked else None
    exact = z.detach().double().requires_grad_()
    wanted = gathered_similarities(exact, exact, chosen, mask)
    compare(fused_similarities(z, z, chosen, mask), wanted, [z], [exact], weights, 2e-6)
    wanted = gathered_logsumexp(exact, exact, chosen, 0.1, None, mask)
    found = fused_logsumexp(z, z, chosen, 0.1, None, mask)
    compare(found, wanted, [z], [exact], weights[:, 0], 1e-5)


def test_who_needs_no_gradient_gets_none_and_strided_arguments_serve():
    a, k, chosen, mask, weights = pairs(6, 8, 20, 16, torch.float32)
    weight = weights.float()
    own = chosen[:, ::2], 0.1, weight[:, 1::2], mask[:, ::2]
    shared = chosen[:, ::2], 0.1, weight[:1, ::2].expand(6, -1), mask[:1, ::2].expand(6, -1)
    for rest in (own, shared):
        wanted = gathered_logsumexp(a, k, *rest)
        torch.testing.assert_close(fused_logsumexp(a, k, *rest), wanted)
        for wants in ([a], [k]):
            rows = [x if any(x is w for w in wants) else x.detach() for x in (a, k)]
            found = fused_logsumexp(*rows, *rest)
            compare(found, wanted, wants, wants, torch.ones(6), 1e-5)
            similar = fused_similarities(*rows, rest[0], rest[3])
            wished = gathered_similarities(*rows, rest[0], rest[3])
            compare(similar, wished, wants, wants, weights[:, ::2], 2e-6)
    assert not fused_similarities(a.detach(), k.detach(), chosen, None).requires_grad


@pytest.mark.parametrize("wrong", [-1, 20, 2**40])
def test_a_column_that_is_no_row_is_seen(wrong):
    a, k, chosen, mask, _ = pairs(6, 8, 20, 16, torch.float32)
    chosen[2, 3], mask[2, 3] = wrong, True
    # What the mask leaves out may be anything.
    chosen[4, 5], mask[4, 5] = wrong, False
    total = fused_logsumexp(a, k, chosen, 0.1, None, mask)
    assert total.isnan().tolist() == [False, False, True, False, False, False]
    similar = fused_similarities(a, k, chosen, mask)
    assert similar.isnan().nonzero().tolist() == [[2, 3]]
    chosen[2, 3] = chosen[4, 5] = 0
    assert torch.equal(total[3:], fused_logsumexp(a, k, chosen, 0.1, None, mask)[3:])


def test_what_is_not_a_number_stays_none():
    a, k, chosen, _, _ = pairs(3, 8, 20, 16, torch.float32)
    rows = a.detach().clone()
    rows[1, 5] = torch.nan
    total = fused_logsumexp(rows, k, chosen, 0.1, None, None)
    assert total.isnan().tolist() == [False, True, False]


def test_no_pairs_and_no_rows():
    a, k, chosen, _, _ = pairs(6, 8, 20, 16, torch.float32)
    none = fused_logsumexp(a, k, chosen[:, :0], 0.1, None, None)
    assert (none == -torch.inf).all()
    gradients = torch.autograd.grad(none, [a, k], torch.ones(6))
    assert not any(gradient.any() for gradient in gradients)
    assert fused_similarities(a, k, chosen[:, :0], None).shape == (6, 0)
    assert fused_logsumexp(a[:0], k, chosen[:0], 0.1, None, None).shape == (0,)


def test_the_order_of_a_sum_is_always_the_same():
    a, k, chosen, _, weights = pairs(60, 11, 9, 32, torch.float32)
    found = []
    for _ in range(2):
        loss = (fused_logsumexp(a, k, chosen, 0.05, None, None) * weights[:, 0].float()).sum()
        found.append(torch.autograd.grad(loss, [a, k]))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 16), (torch.float32, 5000)])
def test_what_no_program_serves_is_computed_in_torch(dtype, width):
    a, k, chosen, mask, weights = pairs(6, 8, 20, width, dtype)
    wanted = gathered_logsumexp(a, k, chosen, 0.1, None, mask)
    found = fused_logsumexp(a, k, chosen, 0.1, None, mask)
    compare(found, wanted, [a, k], [a, k], weights[:, 0], 1e-5)
    found = fused_similarities(a, k, chosen, mask)
    wanted = gathered_similarities(a, k, chosen, mask)
    torch.testing.assert_close(found[mask], wanted[mask], rtol=0, atol=1e-6)


def test_the_programs_are_chosen():
    a, k, chosen, mask, _ = pairs(6, 8, 20, 16, torch.float32)
    assert CHOSEN.kernel(a.device, CHOSEN.typical) is fused_similarities
    assert CHOSEN_LOGSUMEXP.kernel(a.device, None) is fused_logsumexp
    assert chosen_similarities(a, k, chosen, mask).grad_fn.name() == "_SimilaritiesBackward"
    assert chosen_logsumexp(a, k, chosen, 0.1, None, mask).grad_fn.name() == "_LogSumExpBackward"
