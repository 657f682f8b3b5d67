"""Similarities of chosen pairs: each kernel against the reference, in value and gradient."""

from __future__ import annotations

import naive
import pytest
import torch
from distributions import python
from kernel_tables import COMPILED, SIMILARITIES, compiled_similarities, needs_numba, pairs

from negplug import ContrastiveLoss
from negplug.kernels.chosen.reference import gathered_similarities

BACKENDS = ["torch", "reference", *(["numba"] if COMPILED else [])]
# N, M, K, d: one of each, more columns than a precise sum takes, more anchors than a block.
SIZES = [(1, 1, 1, 1), (7, 1, 5, 3), (6, 3, 40, 16), (5, 9, 4, 128), (1100, 6, 30, 8)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", SIMILARITIES)
def test_similarities_of_chosen_pairs_equal_the_reference(kernel, masked, dtype, tolerance):
    for seed, sizes in enumerate(SIZES):
        a, k, chosen, mask, weights = pairs(*sizes, dtype, seed)
        mask = mask if masked else None
        exact = [x.detach().double().requires_grad_() for x in (a, k)]
        wanted = gathered_similarities(*exact, chosen, mask)
        found = SIMILARITIES[kernel](a, k, chosen, mask)
        assert found.dtype == dtype
        if masked:
            wanted, found = wanted[mask], found[mask]
            weights = weights[mask]
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
        got = torch.autograd.grad((found * weights.to(dtype)).sum(), [a, k])
        expected = torch.autograd.grad((wanted * weights).sum(), exact)
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == dtype
            torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * sizes[1] * 10)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", SIMILARITIES)
def test_a_pool_that_is_the_anchors_gets_both_gradients(kernel, masked):
    for seed, (rows, width) in enumerate([(1, 1), (9, 2), (40, 7), (1100, 3)]):
        z, _, chosen, mask, weights = pairs(rows, width, rows, 16, torch.float64, seed)
        mask = mask if masked else torch.ones_like(mask)
        wanted = (gathered_similarities(z, z, chosen, mask) * weights)[mask].sum()
        found = (SIMILARITIES[kernel](z, z, chosen, mask) * weights)[mask].sum()
        (expected,) = torch.autograd.grad(wanted, [z])
        (got,) = torch.autograd.grad(found, [z])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", SIMILARITIES)
def test_who_needs_no_gradient_gets_none_and_strided_columns_do(kernel):
    a, k, chosen, _, _ = pairs(6, 8, 20, 16, torch.float64)
    wanted = gathered_similarities(a, k, chosen[:, ::2], None).sum()
    for wants in ([a], [k]):
        rows = [x if any(x is w for w in wants) else x.detach() for x in (a, k)]
        found = SIMILARITIES[kernel](*rows, chosen[:, ::2], None).sum()
        (got,) = torch.autograd.grad(found, wants)
        (expected,) = torch.autograd.grad(wanted, wants, retain_graph=True)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@needs_numba
@pytest.mark.usefixtures("two_threads")
def test_compiled_loops_repeat_themselves_with_threads_and_refuse_what_is_no_row(monkeypatch):
    from negplug.kernels.chosen import compiled

    a, k, chosen, mask, weights = pairs(300, 11, 80, 32, torch.float32)
    found = []
    for threads_from in (2**30, 1, 1):
        monkeypatch.setattr(compiled, "_FEW", threads_from)
        similarities = compiled_similarities(a, k, chosen, mask)
        loss = (similarities * weights.float() * mask).sum()
        found.append((loss, *torch.autograd.grad(loss, [a, k])))
    assert all(map(torch.equal, found[1], found[2]))
    torch.testing.assert_close(found[0], found[1])
    for wrong in (-1, 80, -(2**40), 2**62):
        chosen[3, 4] = wrong
        with pytest.raises(IndexError, match=r"columns must lie in \[0, 80\)"):
            compiled_similarities(a, k, chosen, mask)


THREADS = """
import torch
torch.set_num_threads(2)
from negplug.kernels.compiling import threads
with threads(True) as at_once:
    print(at_once, torch.get_num_threads(), end=" ")
print(torch.get_num_threads())
"""


@needs_numba
def test_loops_with_threads_leave_torch_its_own_number(tmp_path):
    found = python("-c", THREADS, cwd=tmp_path, NUMBA_NUM_THREADS="4")
    assert found.stdout == "True 2 2\n", found.stderr


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=20)"])
@pytest.mark.parametrize("temperature", [0.1, 0.02])
def test_every_backend_is_accurate_on_similar_views(sampler, temperature, backend, monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    single = [v.detach().float() for v in naive.embeddings(2, 256, 128, spread=0.05)]
    exact = [v.double().requires_grad_() for v in single]
    single = [v.requires_grad_() for v in single]
    errors = []
    # How near the drawn ones are changes the error by a factor of four, also the reference's.
    for seed in range(8):
        loss_fns = [ContrastiveLoss(sampler, temperature=temperature, seed=seed) for _ in range(2)]
        wanted = naive.gradients(loss_fns[0](*exact), exact)
        got = naive.gradients(loss_fns[1](*single), single)
        errors.append(naive.relative(got.double(), wanted))
    assert sum(errors) / len(errors) < 3e-6
