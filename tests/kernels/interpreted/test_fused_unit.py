"""Unit rows in Triton: value and gradient against those in torch, of float64."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.unit import UNIT
from negplug.kernels.unit.blocked import blocked_unit_rows
from negplug.kernels.unit.fused import fused_unit_rows

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def views(lengths, width, dtypes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    many = zip(lengths, dtypes, strict=True)
    return [(3 * torch.randn(n, width, generator=draw)).to(dtype) for n, dtype in many]


def compare(parts, tolerance=1e-7):
    """Compare with float64, on leaves of the same values."""
    parts = [part.detach().requires_grad_() for part in parts]
    exact = [part.detach().double().requires_grad_() for part in parts]
    ours, theirs = fused_unit_rows(*parts), blocked_unit_rows(*exact)
    assert ours.dtype == torch.float32
    assert (ours.double() - theirs).abs().max() <= tolerance
    like = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
    (ours * like).sum().backward()
    (theirs * like.double()).sum().backward()
    for part, other in zip(parts, exact, strict=True):
        assert part.grad.dtype == part.dtype
        rounding = 1e-6 + torch.finfo(part.dtype).eps
        apart = (part.grad.double() - other.grad).abs().amax(1)
        assert (apart <= rounding * other.grad.abs().amax(1).clamp(min=1e-12)).all()


@pytest.mark.parametrize("width", [1, 63, 64, 65, 128, 200, 256, 512, 1024, 4096])
def test_widths(width):
    compare(views((5, 5), width, DTYPES[:1] * 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(1,), (33, 33), (7, 1, 40), (2, 3, 4, 5)])
def test_numbers_of_views(lengths, dtype):
    compare(views(lengths, 24, [dtype] * len(lengths)))


def test_views_of_different_types_and_strides():
    compare(views((4, 6), 20, [torch.float16, torch.float32]))
    both = views((12,), 40, DTYPES[:1])[0]
    compare(both.view(12, 2, 20).unbind(1))
    compare([both[:, :20], both.T.contiguous().T[:, 20:], both[:1, :20].expand(4, 20)])


def test_one_view_may_need_no_gradient():
    parts = views((3, 4, 5), 16, DTYPES[:1] * 3)
    parts[0].requires_grad_()
    parts[2].requires_grad_()
    fused_unit_rows(*parts)[:, 0].sum().backward()
    exact = [part.detach().requires_grad_() for part in parts]
    blocked_unit_rows(*exact)[:, 0].sum().backward()
    assert parts[1].grad is None
    for number in (0, 2):
        torch.testing.assert_close(parts[number].grad, exact[number].grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entry", [0.0, 1e-30, 1e-13, 3e-7, 1e-4])
def test_short_rows_are_treated_as_in_torch(dtype, entry):
    (ours,) = views((6,), 16, [dtype])
    ours[2] = entry
    theirs = ours.clone().requires_grad_()
    ours.requires_grad_()
    like = torch.linspace(-1, 1, 96).view(6, 16)
    for kernel, leaf in ((fused_unit_rows, ours), (blocked_unit_rows, theirs)):
        unit = kernel(leaf)
        (unit * like).sum().backward()
        assert unit.isfinite().all()
        assert leaf.grad.isfinite().all()
    rounding = 1e-5 + torch.finfo(dtype).eps
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("entry", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_becomes_nan(entry):
    (z,) = views((5,), 16, DTYPES[:1])
    z[3, 2] = entry
    bad = fused_unit_rows(z).sum(1).isnan()
    assert bad.tolist() == [False, False, False, True, False]


def test_the_programs_are_chosen_and_leave_float64_and_very_wide_rows_to_torch():
    assert UNIT.kernel(torch.device("cpu"), None) is fused_unit_rows
    for part in (views((3,), 8, [torch.float64]), views((2,), 5000, DTYPES[:1])):
        assert torch.equal(fused_unit_rows(*part), blocked_unit_rows(*part))
