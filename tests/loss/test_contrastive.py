"""``ContrastiveLoss`` against loops: positives, weights, masks, anchors without negatives."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE

from negplug import (
    Columns,
    ContrastiveBatch,
    ContrastiveLoss,
    Negatives,
    Whole,
    make_objective,
)
from negplug.objectives.logits import negative_logsumexp


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_in_batch_equals_the_loop(views, temperature):
    z = naive.embeddings(views, 7)
    ours = ContrastiveLoss("in_batch()", temperature=temperature)(*z)
    reference = naive.simclr(z, temperature)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


@pytest.mark.parametrize("form", ["sum", "each", "mean"])
def test_several_positives_equal_the_loop(form):
    # One class of one: an anchor without positive, which pays nothing and does not count.
    ids = torch.tensor([0, 1, 0, 2, 1, 1, 0, 3], device=DEVICE)
    (z,) = naive.embeddings(1, 8)
    batch = ContrastiveBatch.from_ids(torch.nn.functional.normalize(z, dim=1), ids)
    ours = ContrastiveLoss(objective=f"infonce(positives={form!r})", temperature=0.3).contrast(
        batch
    )
    reference = naive.supervised(z, ids, 0.3, form)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, [z]), naive.gradients(reference, [z])) < 1e-12


@pytest.mark.parametrize("rows_of_weight", [1, 40])
def test_log_weights_reach_every_path(rows_of_weight):
    generator = torch.Generator().manual_seed(2)
    anchors, pool = naive.embeddings(2, 40)
    a, k = (torch.nn.functional.normalize(x, dim=1) for x in (anchors, pool))
    ids = torch.arange(40, device=DEVICE)
    batch = ContrastiveBatch.from_ids(a, ids, k, ids, lasting=True)
    columns = torch.stack([torch.randperm(40, generator=generator)[:6] for _ in range(40)])
    columns = columns.to(DEVICE)
    for chosen, width in ((None, 40), (columns, 6)):
        for columns_of_weight in (1, width):
            weight = torch.randn(
                rows_of_weight, columns_of_weight, dtype=torch.float64, generator=generator
            ).to(DEVICE)
            choice = Whole() if chosen is None else Columns(chosen)
            drawn = [Negatives(batch.keys, choice, weight)]
            ours = negative_logsumexp(batch, drawn, 0.4)
            logits = a @ k.T / 0.4
            if chosen is None:
                logits = (logits + weight).masked_fill(ids[:, None] == ids, -torch.inf)
            else:
                logits = logits.gather(1, chosen) + weight
            dense = logits.logsumexp(1)
            torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
            both = [anchors, pool]
            assert (
                naive.relative(
                    naive.gradients(ours.sum(), both), naive.gradients(dense.sum(), both)
                )
                < 1e-12
            )


def test_masked_columns_count_for_nothing():
    (z,) = naive.embeddings(1, 6)
    unit = torch.nn.functional.normalize(z, dim=1)
    ids = torch.arange(6, device=DEVICE)
    batch = ContrastiveBatch.from_ids(unit, ids)
    columns = torch.tensor([[1, 2], [2, 3], [3, 4], [4, 5], [5, 0], [0, 1]], device=DEVICE)
    mask = torch.tensor([[True, False]] * 5 + [[False, False]], device=DEVICE)
    ours = negative_logsumexp(batch, [Negatives(batch.keys, Columns(columns, mask))], 0.5)
    reference = (unit[:5] * unit[columns[:5, 0]]).sum(1) / 0.5
    torch.testing.assert_close(ours[:5], reference)
    assert ours[5] == -torch.inf
    assert (
        naive.relative(naive.gradients(ours[:5].sum(), [z]), naive.gradients(reference.sum(), [z]))
        < 1e-12
    )


def test_an_anchor_without_negative_pays_nothing_and_keeps_its_graph():
    z = naive.embeddings(2, 1)
    loss = ContrastiveLoss("in_batch()")(*z)
    assert loss.item() == 0
    assert naive.gradients(loss, z).abs().sum() == 0


OBJECTIVES = [
    "infonce(positives='sum')",
    "infonce(positives='each')",
    "infonce(positives='mean')",
    "decoupled()",
    "decoupled(sigma=0.5)",
    "debiased(tau_plus=0.1)",
    "debiased(tau_plus=0.0)",
    "debiased(tau_plus=0.1, beta=1.0)",
    "relic()",
]
FORMS = ["chosen", "chosen-masked", "one-weight", "whole", "several-parts"]


def weightless(batch, form):
    """Negatives of which those of anchors 0 and 5 weigh nothing; some of anchor 1's do."""
    count = len(batch.anchors)
    columns = torch.stack([(torch.arange(1, 5) + row) % count for row in range(count)])
    columns = columns.to(DEVICE)
    width = {"one-weight": 1, "whole": count}.get(form, 4)
    weight = torch.linspace(-1, 1, count * width, dtype=torch.float64, device=DEVICE)
    weight = weight.view(count, width)
    weight[[0, 5]] = -torch.inf
    if width > 1:
        weight[1, :2] = -torch.inf
    mask = None
    if form == "chosen-masked":
        mask = torch.ones(count, 4, dtype=torch.bool, device=DEVICE)
        mask[[0, 2], 1] = False
    choice = Whole() if form == "whole" else Columns(columns, mask)
    parts = [Negatives(batch.keys, choice, weight)]
    if form == "several-parts":
        parts += weightless(batch, "chosen")
    return parts


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_anchors_whose_negatives_weigh_nothing_pay_nothing(objective, form, temperature):
    z = naive.embeddings(2, 6)
    batch = ContrastiveBatch.from_views(tuple(z))
    negatives = weightless(batch, form)
    total = negative_logsumexp(batch, negatives, temperature)
    none = torch.zeros(12, dtype=torch.bool, device=DEVICE)
    none[[0, 5]] = True
    assert torch.equal(total == -torch.inf, none)
    losses = make_objective(objective)(batch, negatives, temperature)
    assert losses.isfinite().all()
    assert (losses[none] == 0).all()
    gradients = naive.gradients(losses.sum(), z)
    assert gradients.isfinite().all()
    assert gradients.norm() > 0
    # The other anchors' losses, and their gradients, are those of a batch without these two.
    paying = naive.gradients(losses[~none].sum(), z)
    torch.testing.assert_close(gradients, paying, rtol=1e-12, atol=1e-15)
    assert naive.gradients(losses[none].sum(), z).abs().sum() == 0
