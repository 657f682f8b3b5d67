"""Lightly's DirectCLRLoss: treated, it truncates as the host does."""

from __future__ import annotations

import copy

import naive
import pytest
import ranks
import torch
from queue_contents import rows_of

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
MACLLoss, DirectCLRLoss = lightly_loss.MACLLoss, lightly_loss.DirectCLRLoss


@pytest.mark.parametrize("width", [5, 16, 64])
def test_direct_clr_truncates_as_the_host_does(width):
    z, criterion = naive.embeddings(2, 12), DirectCLRLoss(loss_dim=width, temperature=0.2)
    z = [v.view(12, 4, 2, 2) for v in z]  # a feature map, which it flattens
    theirs = criterion(*z)
    with inject(criterion, "in_batch()") as handle:
        ours = criterion(*z)
    assert handle.losses["DirectCLRLoss"].calls == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-10


def test_direct_clrs_bank_holds_what_is_left():
    criterion = DirectCLRLoss(loss_dim=5, memory_bank_size=(24, 5)).double()
    twin = copy.deepcopy(criterion)
    with inject(twin, "queue()") as handle:
        for step in range(6):
            z = naive.embeddings(2, 6, seed=step)
            theirs, ours = criterion(*z), twin(*z)
            grads = [naive.gradients(loss, z) for loss in (theirs, ours)]
            handle.end_step()  # the graph was kept, so that no backward pass ended it
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(*grads) < 1e-10
        assert rows_of(handle).shape == (24, 5)


def _direct_clr_on_ranks(rank: int, world: int) -> list[torch.Tensor]:
    z = naive.embeddings(2, 4, seed=rank)
    criterion = DirectCLRLoss(loss_dim=5, gather_distributed=True)
    theirs = criterion(*z)
    their_grad = naive.gradients(theirs, z)
    with inject(criterion, "in_batch()"):
        ours = criterion(*z)
        return [theirs.detach(), their_grad, ours.detach(), naive.gradients(ours, z)]


def test_direct_clr_gathered_on_ranks():
    for theirs, their_grad, ours, our_grad in ranks.run(_direct_clr_on_ranks, 2):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10
