"""Losses of anchors in Triton: value and gradient against the reference, of float64."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from anchor_losses import FORMS, Asked, compared, question
from torch.utils.checkpoint import checkpoint

from negplug.kernels.anchor_loss import ANCHOR_LOSS, fused
from negplug.kernels.anchor_loss.closed import closed_losses
from negplug.kernels.anchor_loss.fused import fused_losses

SIZES = [(1, 1), (5, 63), (33, 64), (64, 65), (70, 128), (40, 200), (35, 256), (6, 512), (5, 1000)]
SIZES += [(4, 1024)]


@pytest.mark.parametrize(("number", "width"), SIZES)
@pytest.mark.parametrize("keys", ["own", "own keys", "frozen"])
@pytest.mark.parametrize("positives", [1, 3])
def test_sizes(number, width, keys, positives):
    compared(fused_losses, question(number, width, positives, keys), 0.1, "mean")


@pytest.mark.parametrize(("form", "apart"), FORMS)
@pytest.mark.parametrize("temperature", [1e-3, 0.02, 0.5, 10.0])
@pytest.mark.parametrize("positives", [1, 4])
def test_forms_and_temperatures(form, apart, temperature, positives):
    compared(fused_losses, question(20, 16, positives, "own"), temperature, form, apart)


@pytest.mark.parametrize(("form", "apart"), FORMS)
@pytest.mark.parametrize("mutual", [True, False])
def test_positives_of_views(form, apart, mutual):
    """Three views of 30 samples, of which some are missing; or one anchor has another positive."""
    rows, _, negative = question(90, 16, 2, "own")
    positives = (torch.arange(90)[:, None] + torch.tensor([30, 60])) % 90
    positives[7, 0] = positives[37, 1] = -1  # not each other's, though both are the third's
    if not mutual:
        positives[5, 0] = 8
    compared(fused_losses, Asked(rows, positives, negative), 0.1, form, apart)


def test_anchors_are_looked_at_in_chunks(monkeypatch):
    """Three chunks, each with the first or the last key of a program's rows as only positive."""
    monkeypatch.setattr(fused, "_CHUNK", 64)
    few = question(150, 8, 2, "own keys")
    for chunk, column in zip(few.positives.split(64), (32, 31, 0), strict=True):
        chunk[chunk >= 0] = column
    compared(fused_losses, few, 0.2, "sum")


@pytest.mark.parametrize("keys", ["own", "own keys"])
def test_a_checkpointed_loss_has_the_same_gradient(keys):
    (anchors, pool), positives, negative = question(20, 16, 2, keys)
    terms = (anchors, pool, positives, negative, 0.1, "sum", False)
    wanted = torch.autograd.grad(fused_losses(*terms).sum(), [anchors, pool])
    again = checkpoint(fused_losses, *terms, use_reentrant=False)
    found = torch.autograd.grad(again.sum(), [anchors, pool])
    assert all(map(torch.equal, found, wanted))


def test_what_no_program_serves_is_computed_in_torch():
    (anchors, keys), positives, negative = question(6, 4100, 2, "own keys")
    for dtype, width in ((torch.float64, 16), (torch.float32, 4100)):
        rows = [x[:, :width].to(dtype) for x in (anchors, keys)]
        ours = fused_losses(*rows, positives, negative.to(dtype), 0.1, "sum", False)
        theirs = closed_losses(*rows, positives, negative.to(dtype), 0.1, "sum", False)
        assert torch.equal(ours, theirs)
    assert ANCHOR_LOSS.kernel(torch.device("cpu"), None) is fused_losses


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("apart", [True, False])
def test_what_is_not_a_number_stays_none(form, apart):
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    keys = rows.clone()
    keys[2, 0] = torch.nan
    positives = torch.tensor([[2, 3], [1, 4]]).repeat(3, 1)
    found = fused_losses(rows, keys, positives, torch.zeros(6), 0.1, form, apart)
    assert found.isnan().tolist() == [True, False] * 3
