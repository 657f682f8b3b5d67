"""The expected logit of draws: value and gradients of each backend of the CPU and of a loop."""

from __future__ import annotations

import pytest
import torch
from kernel_tables import needs_numba
from weighted_draws import TAU, asked_for_alone, naive, question

from negplug.kernels.posterior import POSTERIOR, Sizes, WeightedDraws, expectation, plain

BACKENDS = [pytest.param("numba", marks=needs_numba), "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("anchors", "entries", "width"), [(1, 1, 1), (5, 3, 8), (33, 2, 130)])
def test_value_and_gradients_equal_a_loop(anchors, entries, width, dtype, backend, monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    a, pools, draws = question(anchors, entries, width, dtype)
    found, wanted = expectation(a, pools, draws, TAU), naive(a, pools, draws)
    torch.testing.assert_close(found, wanted)
    drawn = wanted > -torch.inf
    assert not drawn[0]
    upstream = torch.linspace(-1, 2, anchors, dtype=dtype)
    zeros = {"allow_unused": True, "materialize_grads": True}
    ours, loops = (
        torch.autograd.grad((value * upstream)[drawn].sum(), (a, *pools[:2]), **zeros)
        for value in (found, wanted)
    )
    for one, other in zip(ours, loops, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_asked_for_has_a_gradient(backend, monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    asked_for_alone()


@needs_numba
def test_loops_take_few_draws_and_leave_lists_of_pairs_to_torch(monkeypatch):
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    cpu = torch.device("cpu")
    assert POSTERIOR.backend(cpu, Sizes(16, 128, 16)) == "numba"
    for many in (Sizes(512, 128, 512), Sizes(16, 2**12, 16)):
        assert POSTERIOR.kernel(cpu, many)() is plain
    a, pools, draws = question(5, 3, 8, torch.float32)
    pairs = torch.tensor([1, 3]), torch.tensor([0, 8])
    asked = [WeightedDraws(draws[0].log_weight, None, pairs=pairs), WeightedDraws(None, None)]
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    wanted = expectation(a, pools[:2], asked, TAU)
    monkeypatch.setenv("NEGPLUG_BACKEND", "numba")
    torch.testing.assert_close(expectation(a, pools[:2], asked, TAU), wanted)


@needs_numba
def test_loops_refuse_what_is_no_row(monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", "numba")
    a, pools, draws = question(5, 3, 8, torch.float32)
    for wrong in (-1, 4, 2**40):
        columns = draws[1].columns.clone()
        columns[2, 1] = wrong
        with pytest.raises(IndexError, match=r"columns must lie in \[0, 4\)"):
            expectation(a, [pools[1].detach()], [draws[1]._replace(columns=columns)], TAU)
