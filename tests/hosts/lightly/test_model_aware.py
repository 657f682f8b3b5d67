"""Lightly's MACLLoss: treated, it is the same loss and adapts its temperature."""

from __future__ import annotations

import itertools

import naive
import pytest
import ranks
import torch

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
MACLLoss, DirectCLRLoss = lightly_loss.MACLLoss, lightly_loss.DirectCLRLoss


@pytest.mark.parametrize("spread", [1.0, 0.1])
@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.5, "alpha": 1.0}, {"alpha": 0.0}, {"alpha": 0.7, "A_0": 0.4}],
    ids=str,
)
def test_model_aware_equals_itself_untreated(settings, spread):
    z, criterion = naive.embeddings(2, 33, spread=spread), MACLLoss(**settings)
    theirs = criterion(*z)
    with inject(criterion, "in_batch()") as handle:
        ours = criterion(z0=z[0], z1=z[1])  # the host's own names
    assert handle.losses["MACLLoss"].calls == 1
    # The host's 1 − P cancels where the positive dominates.
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-8


def test_model_aware_adapts_its_temperature_unless_one_is_given():
    z, criterion = naive.embeddings(2, 12), MACLLoss(temperature=0.2, alpha=0.5)
    alignment = torch.cosine_similarity(*z).mean().detach()
    adapted = float(0.2 * (1 + 0.5 * alignment))
    assert adapted > 0.21
    with inject(criterion, "in_batch()", "infonce()"):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, adapted))
        criterion.alpha = 0.0  # read at every call
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.2))
        criterion.alpha = 0.5
    with inject(criterion, "in_batch()", "infonce()", temperature=0.3):
        torch.testing.assert_close(criterion(*z), naive.simclr(z, 0.3))
    fixed = MACLLoss(temperature=0.3, alpha=0.0)(*z)
    with inject(criterion, "in_batch()", temperature=0.3):
        torch.testing.assert_close(criterion(*z), fixed)  # the weights are kept


def test_model_aware_with_fewer_negatives_equals_the_host_on_them():
    # With two samples and one negative drawn, half of the host's denominator is left.
    z, criterion = naive.embeddings(2, 2), MACLLoss(alpha=0.0)
    with inject(criterion, "uniform(num_negatives=1)"):
        ours = criterion(*z)
    unit = [v / v.norm(dim=1, keepdim=True) for v in z]
    candidates = []
    for anchor in range(4):
        view, sample = divmod(anchor, 2)
        a, p = unit[view][sample], unit[1 - view][sample]
        found = []
        for n in (unit[0][1 - sample], unit[1][1 - sample]):
            share = torch.stack([a @ p, a @ n]).div(0.1).softmax(0)[0]
            found.append(float((-share.log() / (1 - share + 1e-8)).detach()))
        candidates.append(found)
    sums = [sum(pick) / 4 for pick in itertools.product(*candidates)]
    assert min(abs(float(ours) - total) for total in sums) < 1e-10


def test_model_aware_is_finite_at_the_extremes():
    z0 = torch.randn(6, 16)
    for z in ([z0.clone(), z0.clone()], [z0.clone(), -z0]):
        z = [v.requires_grad_() for v in z]
        criterion = MACLLoss(temperature=0.01)
        with inject(criterion, "in_batch()"):
            loss = criterion(*z)
            assert loss.isfinite()
            assert naive.gradients(loss, z).isfinite().all()
    with inject(criterion, "queue(size=12)"):
        assert criterion(*z) == 0  # nothing is in the queue yet


def _model_aware_on_ranks(rank: int, world: int) -> list[torch.Tensor]:
    z, criterion = naive.embeddings(2, 4, seed=rank), MACLLoss()
    theirs = criterion(*z)
    with inject(criterion, "in_batch()"):
        return [theirs.detach(), criterion(*z).detach()]


def test_model_aware_keeps_to_its_rank():
    found = ranks.run(_model_aware_on_ranks, 2)
    for theirs, ours in found:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert found[0][0] != found[1][0]
