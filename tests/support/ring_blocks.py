"""A pool in blocks, and what their kernels must add up to: the whole pool by the reference."""

from __future__ import annotations

import torch
from device import DEVICE
from torch.nn.functional import normalize

from negplug.kernels.pool.reference import full_logsumexp

SIZES = (7, 1, 90)
"""Numbers of rows of the blocks."""


def blocks_add_up(sums, gradient, rows, width, temperature, dtype, tolerance, half=False):
    """Assert that a kernel's blocks merge to the value and the gradient of the whole pool.

    The first anchor has no negative in the first block, the last one has none at all.
    """
    draw = {"generator": torch.Generator().manual_seed(rows), "dtype": torch.float64}
    a = normalize(torch.randn(rows, width, **draw), dim=1).to(DEVICE)
    k = normalize(torch.randn(sum(SIZES), width, **draw), dim=1).to(DEVICE)
    ids = torch.arange(sum(SIZES), device=DEVICE) % 20
    ids[: SIZES[0]] = 3
    if rows > 1:
        ids = ids.where(ids != 5, 3)
    anchor_ids = torch.arange(rows, device=DEVICE) % 20
    anchor_ids[0] = 3
    leaves = a.clone().requires_grad_(), k.clone().requires_grad_()
    wanted = full_logsumexp(*leaves, anchor_ids, ids, temperature)
    upstream = torch.linspace(-1, 2, rows, dtype=torch.float64, device=DEVICE)
    wanted_a, wanted_k = torch.autograd.grad((wanted * upstream).sum(), leaves)

    a, k, upstream = a.to(dtype), k.to(dtype), upstream.to(dtype)
    values, slopes, added = [], [], []
    for block, names in zip(k.split(SIZES), ids.split(SIZES), strict=True):
        question = (anchor_ids, names, temperature, half)
        value, slope = sums(a, block, *question, True)
        alone, none = sums(a, block, *question, False)
        assert none is None
        torch.testing.assert_close(alone, value, rtol=1e-4 if half else 1e-6, atol=1e-6)
        values.append(value)
        slopes.append(slope)
        added.append(gradient(a, block, *question, wanted.detach().to(dtype), upstream))
    assert values[0][0] == -torch.inf
    assert not slopes[0][0].any()
    total = torch.stack(values).logsumexp(0)
    shares = (torch.stack(values) - total).exp()
    slope = (shares[..., None] * torch.stack(slopes)).sum(0) * upstream[:, None]
    for found, exact in ((total, wanted), (slope, wanted_a), (torch.cat(added), wanted_k)):
        error = (found.double() - exact).norm() / exact.norm()
        assert error <= tolerance, error
