"""``decoupled`` is Lightly's, on one rank and on two."""

from __future__ import annotations

import naive
import pytest
import ranks
import torch

from negplug import ContrastiveBatch, ContrastiveLoss

# Lightly copies a tensor with torch.tensor(), of which torch disapproves.
copies = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")


def lightly_loss(sigma, **kwargs):
    losses = pytest.importorskip("lightly.loss")
    if sigma is None:
        return losses.DCLLoss(**kwargs)
    return losses.DCLWLoss(sigma=sigma, **kwargs)


@copies
@pytest.mark.parametrize("temperature", [0.5, 0.07])
@pytest.mark.parametrize("sigma", [None, 0.5, 0.1])
def test_decoupled_is_lightlys(sigma, temperature):
    z = naive.embeddings(2, 16)
    theirs = lightly_loss(sigma, temperature=temperature)(*z)
    ours = ContrastiveLoss(objective=f"decoupled(sigma={sigma})", temperature=temperature)(*z)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-10


def both_on_a_rank(rank, world, theirs, objective):
    z = naive.embeddings(2, 6, seed=rank)
    gathered = ContrastiveBatch.from_views(tuple(z)).gathered()
    ours = ContrastiveLoss(objective=objective, temperature=0.2).contrast(gathered)
    return [(loss.detach(), naive.gradients(loss, z)) for loss in (ours, theirs(*z))]


@copies
@pytest.mark.parametrize("sigma", [None, 0.5])
def test_decoupled_is_lightlys_over_two_ranks(sigma):
    theirs = lightly_loss(sigma, temperature=0.2, gather_distributed=True)
    results = ranks.run(both_on_a_rank, 2, theirs, f"decoupled(sigma={sigma})")
    for (ours, our_gradient), (wanted, their_gradient) in results:
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=0)
        assert naive.relative(our_gradient, their_gradient) < 1e-10
    assert results[0][0][0] != results[1][0][0]
