"""Rows of unit length at the edge: zero and subnormal rows of every floating-point type."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from kernel_tables import needs_numba
from torch.nn.functional import normalize

from negplug import ContrastiveLoss
from negplug.kernels.unit import UNIT, Sizes, unit_rows
from negplug.kernels.unit.blocked import blocked_unit_rows

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def rows_with(entry, dtype, width=16):
    """Seven rows, the third of which has this entry everywhere."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(7, width, generator=generator, dtype=torch.float64).to(dtype)
    z[2] = entry
    return z.to(DEVICE).requires_grad_()


@pytest.mark.parametrize("dtype", TYPES)
def test_a_row_without_a_direction_gets_no_gradient(dtype):
    z, like = rows_with(0.0, dtype), torch.randn(7, 16, generator=torch.Generator().manual_seed(2))
    unit = unit_rows(z)
    assert (unit[2] == 0).all()
    (unit * like.to(unit)).sum().backward()
    assert (z.grad[2] == 0).all()
    others = torch.tensor([0, 1, 3, 4, 5, 6], device=DEVICE)
    wide = z.detach()[others].to(unit.dtype).requires_grad_()
    (normalize(wide, dim=1) * like.to(unit)[others]).sum().backward()
    torch.testing.assert_close(z.grad[others], wide.grad.to(dtype))


@pytest.mark.parametrize("objective", ["infonce()", "decoupled()", "relic()", "sogclr()"])
@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=3)", "queue(size=64)"])
def test_gradients_of_zero_and_subnormal_rows_are_finite(sampler, objective):
    for dtype in TYPES:
        info = torch.finfo(dtype)
        for entry in (0.0, info.smallest_normal / 4, info.smallest_normal, 1e-30, 3e-7):
            loss_fn = ContrastiveLoss(sampler, objective, temperature=0.05, seed=0)
            for _ in range(2):
                z0, z1 = rows_with(entry, dtype), rows_with(1.0, dtype)
                loss = loss_fn(z0, z1, indexes=torch.arange(7))
                loss.backward()
                assert loss.isfinite(), (dtype, entry)
                assert torch.cat([z0.grad, z1.grad]).isfinite().all(), (dtype, entry)


def test_a_short_row_that_has_a_direction_keeps_its_gradient():
    for dtype, entry in ((torch.float32, 1e-10), (torch.bfloat16, 1e-9), (torch.float64, 1e-11)):
        z = rows_with(entry, dtype)
        unit_rows(z)[2, :3].sum().backward()
        wide = z.detach().double().requires_grad_()
        normalize(wide, dim=1)[2, :3].sum().backward()
        torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-2, atol=0)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lengths", [(1,), (5,), (4, 4), (3, 1, 6)], ids=str)
def test_loops_equal_torch(lengths, dtype):
    from negplug.kernels.unit.compiled import compiled_unit_rows

    draw = torch.Generator().manual_seed(sum(lengths))
    for entry in (0.0, 1e-13, 1e-10, 1.0, torch.nan, torch.inf):
        parts = [torch.randn(n, 9, generator=draw).to(dtype) for n in lengths]
        parts[-1][0] = entry
        parts = [part.t().contiguous().t().requires_grad_() for part in parts]
        weights = torch.randn(9, sum(lengths), generator=draw).to(dtype).t()
        found = []
        for kernel in (compiled_unit_rows, blocked_unit_rows):
            unit = kernel(*parts)
            wanted = parts[:1] if len(parts) > 2 else parts
            found.append((unit, *torch.autograd.grad(unit, wanted, weights)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)


@needs_numba
def test_loops_are_chosen_for_few_rows_in_float32_or_better(monkeypatch):
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    cpu = torch.device("cpu")
    for types in ({torch.float32}, {torch.float64}):
        assert UNIT.backend(cpu, Sizes(2048, frozenset(types))) == "numba"
        assert UNIT.backend(cpu, Sizes(2**24, frozenset(types))) == "torch"
    for types in ({torch.float16}, {torch.float32, torch.float64}):
        assert UNIT.kernel(cpu, Sizes(2048, frozenset(types))) is blocked_unit_rows
