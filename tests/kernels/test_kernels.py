"""Kernels against their references, in value and gradient; which of them is chosen."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys

import naive
import pytest
import torch
from distributions import python
from torch.nn.functional import normalize
from typer.testing import CliRunner

from negplug import ContrastiveLoss
from negplug.kernels import choice
from negplug.kernels.chain import CHAINS
from negplug.kernels.choice import numba_refusal
from negplug.kernels.chosen import CHOSEN, Sizes, chosen_similarities
from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.dense import dense_similarities
from negplug.kernels.chosen.reference import gathered_similarities
from negplug.kernels.pool import POOL, pool_logsumexp, tiled
from negplug.kernels.pool.frozen import frozen_logsumexp
from negplug.kernels.pool.reference import full_logsumexp
from negplug.kernels.pool.tiled import tiled_logsumexp
from negplug.kernels.random import DISTINCT, distinct_integers
from negplug.kernels.random import Sizes as Draw
from negplug.kernels.random.marking import marked_integers
from negplug.kernels.random.sorting import sorted_integers

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
NUMBA = importlib.util.find_spec("numba") is not None
BACKENDS = ["torch", "reference", *(["numba"] if NUMBA else [])]
SIMILARITIES = {"bags": bag_similarities, "dense": dense_similarities}
if NUMBA:
    from negplug.kernels.chosen.compiled import compiled_similarities
    from negplug.kernels.random.compiled import compiled_integers

    SIMILARITIES["compiled"] = compiled_similarities
needs_numba = pytest.mark.skipif(not NUMBA, reason="numba is not installed")

# N, M, K, d: one of each, more columns than a precise sum takes, more anchors than a block.
SIZES = [(1, 1, 1, 1), (7, 1, 5, 3), (6, 3, 40, 16), (5, 9, 4, 128), (1100, 6, 30, 8)]


def pairs(anchors, columns, pool, dimension, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    a = normalize(torch.randn(anchors, dimension, **draw), dim=1).to(dtype).requires_grad_()
    k = normalize(torch.randn(pool, dimension, **draw), dim=1).to(dtype).requires_grad_()
    # With replacement: a row of the pool may be chosen twice, or by nobody.
    chosen = torch.randint(pool, (anchors, columns), generator=generator)
    mask = torch.rand(anchors, columns, generator=generator) < 0.7
    weights = torch.randn(anchors, columns, **draw)
    return a, k, chosen, mask, weights


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
    for wrong in (-1, 80):
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


@pytest.mark.parametrize("kept", [0, 2**21])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "keys"), [(5, 3), (700, 2500), (3000, 200), (1, 1)])
def test_pools_equal_the_reference(rows, keys, weighted, kept, monkeypatch):
    monkeypatch.setattr(tiled, "_KEPT", kept)
    generator = torch.Generator().manual_seed(rows)
    draw = {"generator": generator, "dtype": torch.float64}
    a = normalize(torch.randn(rows, 16, **draw), dim=1).requires_grad_()
    k = normalize(torch.randn(keys, 16, **draw), dim=1).requires_grad_()
    ids = torch.randint(keys, (rows,), generator=generator)
    question = [ids, torch.arange(keys), 0.05]
    if weighted:
        mask = torch.rand(rows, keys, generator=generator) < 0.8
        mask[0] = False
        question += [torch.randn(rows, keys, **draw), mask]
    wanted = full_logsumexp(a, k, *question)
    weights = torch.randn(rows, **draw)
    nothing = wanted == -torch.inf
    expected = torch.autograd.grad((wanted * weights)[~nothing].sum(), [a, k])
    found = tiled_logsumexp(a, k, *question)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    # Twice: what is kept for the first backward pass must outlive it.
    for _ in range(2):
        loss = (found * weights)[~nothing].sum()
        for one, other in zip(
            torch.autograd.grad(loss, [a, k], retain_graph=True), expected, strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    frozen = frozen_logsumexp(a, k.detach(), *question)
    torch.testing.assert_close(frozen, wanted, rtol=1e-12, atol=1e-12)
    (got,) = torch.autograd.grad((frozen * weights)[~nothing].sum(), [a])
    torch.testing.assert_close(got, expected[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kept", [0, 2**21])
@pytest.mark.parametrize("weight", [None, -200.0])
def test_a_row_of_low_logits_that_a_whole_tile_excludes_has_a_finite_gradient(
    weight, kept, monkeypatch
):
    # In float32 e^{−ℓ} is infinite; what the tile's row of zeros makes of it must not be NaN.
    monkeypatch.setattr(tiled, "_KEPT", kept)
    generator = torch.Generator().manual_seed(0)
    rows = torch.ones(2103, 8) + 0.1 * torch.randn(2103, 8, generator=generator)
    a, k = (
        normalize(rows[:3], dim=1).requires_grad_(),
        (-normalize(rows[3:], dim=1)).requires_grad_(),
    )
    pool_ids = torch.where(torch.arange(2100) < 2048, torch.arange(2100) + 10, 1)
    log_weight = None if weight is None else torch.full((1, 2100), weight)
    question = [torch.tensor([1, 2, 3]), pool_ids, 0.005, log_weight]
    exact = [x.detach().double().requires_grad_() for x in (a, k)]
    wanted = torch.autograd.grad(full_logsumexp(*exact, *question).sum(), exact)
    found = torch.autograd.grad(tiled_logsumexp(a, k, *question).sum(), [a, k])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=2e-3)


def test_a_pool_without_rows_leaves_the_anchors_a_gradient_of_zero():
    a, k = torch.randn(3, 4, requires_grad=True), torch.empty(0, 4, requires_grad=True)
    found = tiled_logsumexp(a, k, torch.arange(3), torch.empty(0, dtype=torch.int64), 0.1)
    assert (found == -torch.inf).all()
    ours, _ = torch.autograd.grad(found, [a, k], torch.ones(3))
    assert not ours.any()


GAMMA = 0x9E3779B97F4A7C15


def mix(state):
    """SplitMix64's output function in Python's own integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def naive_stream(seed, row):
    stream = mix((seed + row * GAMMA) % 2**64)
    return (mix((stream + place * GAMMA) % 2**64) >> 1 for place in itertools.count())


def test_the_output_function_is_splitmix64s():
    # The generator's published first outputs for the seed 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [mix((1234567 + (n + 1) * GAMMA) % 2**64) for n in range(3)] == known


@pytest.mark.parametrize(("rows", "count", "bound"), [(1, 1, 4), (9, 3, 12), (50, 40, 160)])
def test_distinct_integers_are_the_first_of_their_streams(rows, count, bound):
    kernels = [sorted_integers, marked_integers, *([compiled_integers] if NUMBA else [])]
    bounds = bound + torch.arange(rows)
    for seed in (0, 2**62 - 1, 12345):
        wanted = []
        for row in range(rows):
            numbers: dict[int, None] = {}
            for number in naive_stream(seed, row):
                numbers[number % int(bounds[row])] = None
                if len(numbers) == count:
                    break
            wanted.append(sorted(numbers))
        for kernel in kernels:
            found = kernel(bounds, count, torch.tensor(seed))
            assert found.sort(1).values.tolist() == wanted


def test_draws_in_parts_are_the_same(monkeypatch):
    from negplug.kernels.random import marking, sorting

    bounds, seed = torch.full((40,), 100), torch.tensor(7)
    whole = sorted_integers(bounds, 20, seed)
    for kernel, module in ((sorted_integers, sorting), (marked_integers, marking)):
        assert torch.equal(kernel(bounds, 20, seed), whole)
        monkeypatch.setattr(module, "_AT_ONCE", {"cpu": 365})
        assert torch.equal(kernel(bounds, 20, seed), whole)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=20)"])
@pytest.mark.parametrize("temperature", [0.1, 0.02])
def test_every_backend_is_accurate_on_similar_views(sampler, temperature, backend, monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    single = [v.detach().float() for v in naive.embeddings(2, 256, 128, spread=0.05)]
    exact = [v.double().requires_grad_() for v in single]
    single = [v.requires_grad_() for v in single]
    loss_fns = [ContrastiveLoss(sampler, temperature=temperature, seed=0) for _ in range(2)]
    wanted = naive.gradients(loss_fns[0](*exact), exact)
    got = naive.gradients(loss_fns[1](*single), single)
    assert naive.relative(got.double(), wanted) < 3e-6


def test_the_question_chooses(monkeypatch):
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    few, half = Sizes(64, 4, 4096), Sizes(64, 2048, 4096)
    assert CHOSEN.backend(CPU, few) == ("numba" if NUMBA else "torch")
    assert CHOSEN.kernel(CPU, half) is dense_similarities
    assert CHOSEN.kernel(ELSEWHERE, half) is bag_similarities
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    assert CHOSEN.kernel(CPU, few) is bag_similarities
    assert CHOSEN.kernel(CPU, half) is dense_similarities
    assert DISTINCT.kernel(CPU, Draw(drawn=4, bound=4096)) is sorted_integers
    assert DISTINCT.kernel(CPU, Draw(drawn=1024, bound=4096)) is marked_integers
    monkeypatch.setenv("NEGPLUG_BACKEND", "reference")
    for operation in (CHOSEN, POOL, CHAINS):
        assert operation.backend(CPU, operation.typical) == "reference"
    a, k, chosen, _, _ = pairs(6, 3, 40, 16, torch.float64)
    assert torch.equal(chosen_similarities(a, k, chosen), gathered_similarities(a, k, chosen, None))
    ids = torch.arange(40)
    assert torch.equal(
        pool_logsumexp(a, k, ids[:6], ids, 0.1), full_logsumexp(a, k, ids[:6], ids, 0.1)
    )
    monkeypatch.setenv("NEGPLUG_BACKEND", "cuda")
    with pytest.raises(ValueError, match=r"NEGPLUG_BACKEND must be one of .*, got 'cuda'"):
        chosen_similarities(a, k, chosen)


@needs_numba
def test_what_is_forced_serves_or_says_why_not(monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", "numba")
    # Even where another would take less time.
    assert CHOSEN.kernel(CPU, Sizes(64, 2048, 4096)) is compiled_similarities
    assert POOL.backend(CPU, POOL.typical) == "torch"
    with pytest.raises(ValueError, match=r"NEGPLUG_BACKEND is 'numba'.*'meta'"):
        CHAINS.kernel(ELSEWHERE, None)


def test_without_numba_torch_serves(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(choice, "_numba_failure", choice._numba_failure.__wrapped__)
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    assert "negplug[fast]" in numba_refusal(CPU)
    assert CHAINS.backend(CPU, None) == CHOSEN.backend(CPU, Sizes(64, 4, 4096)) == "torch"
    seed = torch.tensor(3)
    drawn = distinct_integers(torch.full((5,), 90), 20, seed)
    assert torch.equal(drawn, sorted_integers(torch.full((5,), 90), 20, seed))
    monkeypatch.setenv("NEGPLUG_BACKEND", "numba")
    with pytest.raises(ValueError, match=r"NEGPLUG_BACKEND.*negplug\[fast\]"):
        CHAINS.kernel(CPU, None)


@pytest.mark.parametrize("forced", [None, "reference", "nonsense"])
def test_the_doctor_says_which_backend_computes(forced, monkeypatch):
    from negplug.cli import app

    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    if forced:
        monkeypatch.setenv("NEGPLUG_BACKEND", forced)
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["kernels"]
    best = "numba" if NUMBA else "torch"
    wanted = {None: (best, "torch", best), "reference": ("reference",) * 3}.get(forced)
    if wanted:
        assert tuple(found[operation.name] for operation in (CHOSEN, POOL, CHAINS)) == wanted
    else:
        assert all("NEGPLUG_BACKEND must be one of" in said for said in found.values())
