"""Logits of samples and weights of views in Triton, against loops."""

from __future__ import annotations

import math
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug.kernels.views import sample_scores, spread_
from negplug.kernels.views.gathering import gathered_scores, spread_by_rows

EMPTY = 1 << 62
SIZES = [(1, 1, 1), (2, 5, 3), (3, 21, 70)]


def question(views, samples, anchors, dtype, scale=1.0):
    generator = torch.Generator().manual_seed(samples)
    order = torch.randperm(views * samples, generator=generator)
    logits = scale * torch.randn(len(order), anchors, dtype=dtype, generator=generator)
    own = torch.randint(-1, samples, (anchors,), generator=generator)
    names = torch.arange(samples)
    names[samples // 2 + 1 :] = EMPTY
    ids = torch.randint(-1, 9, (anchors,), generator=generator)
    row_ids = torch.randint(-1, 9, (len(order),), generator=generator)
    return logits, order.view(views, samples), own, (names, EMPTY), (ids, row_ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scores_and_weights_equal_loops(size, scale, dtype):
    logits, rows, own, missing, ids = question(*size, dtype, scale)
    views, samples, anchors = size
    for without in ({}, {"missing": None}, {"ids": None}):
        given = {"missing": missing, "ids": ids} | without
        scores = sample_scores(logits, rows, own, **given)
        torch.testing.assert_close(scores, gathered_scores(logits, rows, own, **given))
        for c in range(samples):
            for n in range(anchors):
                mine = rows[:, c].tolist()
                excluded = own[n] == c or (given["missing"] and missing[0][c] == EMPTY)
                if given["ids"] and ids[0][n] != -1:
                    excluded = excluded or any(ids[1][row] == ids[0][n] for row in mine)
                wanted = logits[mine, n].double().logsumexp(0).item() - math.log(views)
                wanted = -math.inf if excluded else wanted
                assert scores[c, n].item() == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(scores.shape, dtype=dtype, generator=generator)
    weights[scores == -torch.inf] = 0.0
    weights[::2] *= 1e-42 if dtype == torch.float32 else 0
    found = spread_(logits.clone(), rows, scores, weights)
    by_rows = spread_by_rows(logits.clone(), rows, scores, weights)
    torch.testing.assert_close(found, by_rows, rtol=1e-4, atol=1e-4 * scale)
    for c in range(samples):
        for n in range(anchors):
            mine = found[rows[:, c], n].double().exp()
            kept = weights[c, n].item() if weights[c, n] > 1e-37 else 0.0
            assert mine.sum().item() == pytest.approx(kept, rel=1e-3)
