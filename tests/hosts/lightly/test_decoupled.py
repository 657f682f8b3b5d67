"""Lightly's decoupled criteria: treated, each is the same loss."""

from __future__ import annotations

import importlib
from functools import partial

import naive
import pytest
import ranks
import torch
from two_criteria import Recipe

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
DCLLoss, DCLWLoss = lightly_loss.DCLLoss, lightly_loss.DCLWLoss
vmf = importlib.import_module("lightly.loss.dcl_loss").negative_mises_fisher_weights
DECOUPLED = {
    "DCLLoss": partial(DCLLoss, temperature=0.2),
    "DCLLoss, Lightly's weights": partial(DCLLoss, temperature=0.2, weight_fn=vmf),
    "DCLWLoss": partial(DCLWLoss, temperature=0.2, sigma=0.3),
}
# Lightly copies a tensor with torch.tensor(), of which torch disapproves.
copies = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")


@copies
@pytest.mark.parametrize("build", DECOUPLED.values(), ids=DECOUPLED)
@pytest.mark.parametrize("size", [2, 33])
def test_decoupled_criteria_equal_themselves_untreated(build, size):
    z, criterion = naive.embeddings(2, size), build()
    theirs = criterion(*z)
    with inject(criterion, "in_batch()") as handle:
        ours = criterion(*z)
    (treated,) = handle.losses.values()
    assert treated.calls == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-10


def _decoupled_on_ranks(rank: int, world: int, name: str) -> list[torch.Tensor]:
    z = naive.embeddings(2, 4, seed=rank)
    criterion = DECOUPLED[name](gather_distributed=True)
    theirs = criterion(*z)
    their_grad = naive.gradients(theirs, z)
    with inject(criterion, "in_batch()"):
        ours = criterion(*z)
        return [theirs.detach(), their_grad, ours.detach(), naive.gradients(ours, z)]


@copies
@pytest.mark.parametrize("name", DECOUPLED)
def test_decoupled_criteria_gathered_on_ranks(name):
    found = ranks.run(_decoupled_on_ranks, 2, name)
    for theirs, their_grad, ours, our_grad in found:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10
    assert found[0][0] != found[1][0]


def test_weights_are_read_at_every_call_and_replaced_by_an_explicit_objective():
    z, criterion = naive.embeddings(2, 8), DCLWLoss(temperature=0.2, sigma=0.5)
    plain = DCLLoss(temperature=0.2)(*z)
    with inject(criterion, "in_batch()"):
        assert criterion(*z) != plain
        criterion.weight_fn = None
        torch.testing.assert_close(criterion(*z), plain, rtol=1e-10, atol=0)
    criterion = DCLWLoss(temperature=0.2)
    with inject(criterion, "in_batch()", "infonce()"):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.2))


def test_weights_of_the_users_own_are_refused_with_the_reason():
    def mine(out0, out1):
        return ((out0 - out1) ** 2).sum(1)

    model = Recipe()
    model.weighted = DCLLoss(weight_fn=mine)
    with pytest.raises(ValueError, match=r"DCLLoss: weight_fn=<function .*mine.* of your own"):
        inject(model, "in_batch()")
    assert "forward" not in vars(model.first)

    class Mine(DCLLoss):
        def _loss(self, *args):
            return 2 * super()._loss(*args)

    with pytest.raises(ValueError, match="overrides the _loss of DCLLoss"):
        inject(Mine(), "in_batch()")
