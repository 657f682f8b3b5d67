"""Unit mixtures of two rows: each kernel against its equations in a loop."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from kernel_tables import COMPILED, needs_numba
from torch.nn.functional import normalize

from negplug.kernels.mixing import unit_mixtures
from negplug.kernels.mixing.plain import plain_mixtures

KERNELS = {"plain": plain_mixtures, "chosen": unit_mixtures}
if COMPILED:
    from negplug.kernels.mixing.compiled import compiled_mixtures

    KERNELS["compiled"] = compiled_mixtures


def asked(dtype, anchors=5, number=40, width=6):
    generator = torch.Generator().manual_seed(3)
    pool = torch.randn(9, width, dtype=torch.float64, generator=generator)
    pool[7] = -pool[3]  # opposite rows
    columns = torch.rand(anchors, 9, generator=generator).argsort(1)[:, :7]
    drawn = torch.rand(3, anchors, number, dtype=torch.float64, generator=generator)
    numbers = torch.arange(anchors)[:, None] % 6 + 2
    given = normalize(pool, dim=1).to(dtype), columns, numbers, drawn
    return [each.to(DEVICE) for each in given]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_mixtures_equal_their_equations(kernel, each, dtype, tolerance):
    pool, columns, numbers, drawn = asked(dtype)
    # A slice of a search's columns is strided.
    strided = torch.cat([columns, columns], dim=1)[:, :7]
    numbers = numbers if each else 7
    first, second, coefficients = KERNELS[kernel](pool, strided, numbers, drawn.clone())
    assert coefficients.dtype == dtype
    assert first.shape == second.shape == coefficients.shape[:2] == (5, 40)
    for i in range(5):
        number = int(numbers[i]) if each else 7
        for m in range(40):
            x, y, share = drawn[:, i, m].tolist()
            place = int(number * x)
            other = (place + 1 + int((number - 1) * y)) % number
            assert place != other
            assert (first[i, m], second[i, m]) == (columns[i, place], columns[i, other])
            u, v = pool[first[i, m]].double(), pool[second[i, m]].double()
            length = (share * u + (1 - share) * v).norm()
            wanted = torch.stack([share / length, (1 - share) / length]).to(coefficients)
            scale = float(wanted.max())
            torch.testing.assert_close(coefficients[i, m], wanted, rtol=0, atol=tolerance * scale)


@needs_numba
@pytest.mark.usefixtures("two_threads")
def test_compiled_mixtures_are_the_same_with_threads(monkeypatch):
    from negplug.kernels.mixing import compiled

    given = asked(torch.float32, anchors=64, number=300)
    found = []
    for threads_from in (2**30, 1):
        monkeypatch.setattr(compiled, "_FEW", threads_from)
        found.append(compiled_mixtures(*given))
    assert all(map(torch.equal, *found))
