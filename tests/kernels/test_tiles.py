"""Tiles of a pool against the dense matrix."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE

from negplug.kernels.pool import pool_logsumexp
from negplug.kernels.pool.symmetric import symmetric_logsumexp


@pytest.mark.parametrize("rows", [5, 512, 1300])
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_tiles_equal_the_dense_matrix(rows, temperature):
    (z,) = naive.embeddings(1, rows)
    unit = torch.nn.functional.normalize(z, dim=1)
    ids = torch.randint(0, 1 + rows // 3, (rows,), generator=torch.Generator().manual_seed(1))
    ids = ids.to(DEVICE)
    weights = torch.linspace(0.5, 1.5, rows, dtype=torch.float64, device=DEVICE)
    logits = unit @ unit.T / temperature
    dense = logits.masked_fill(ids[:, None] == ids, -torch.inf).logsumexp(1)
    symmetric = symmetric_logsumexp(unit, ids, temperature)
    streamed = pool_logsumexp(unit, unit, ids, ids, temperature)
    reference = naive.gradients((dense * weights).sum(), [z])
    for ours in (symmetric, streamed):
        torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
        gradient = naive.gradients((ours * weights).sum(), [z])
        assert naive.relative(gradient, reference) < 1e-12
