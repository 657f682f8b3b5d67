"""Mixtures of an empty or a filling queue, and of batches with few negatives."""

from __future__ import annotations

import warnings
from dataclasses import replace

import naive
import pytest
import torch
from mixing import ALL, BOTH, mixtures, sampled
from tiers import SIZE

from negplug import ContrastiveBatch, ContrastiveLoss, make_sampler
from negplug.contract.negatives import total_counts
from negplug.kernels.mixing import unit_coefficients
from negplug.objectives.logits import negative_logsumexp


def test_an_empty_queue_yields_nothing_and_a_filling_one_what_it_can():
    loss_fn = ContrastiveLoss(f"synthetic({ALL}, source=queue(size=96))", seed=5)
    z = naive.embeddings(2, SIZE)
    assert len(sampled(loss_fn, z)[1]) == 1
    assert loss_fn(*z).item() == 0.0
    small = ContrastiveLoss(
        "synthetic(num_mixed=3, num_hardest=72, source=queue(size=72))", temperature=0.2, seed=5
    )
    for _ in range(3):
        small(*z).backward()
    assert small(*naive.embeddings(2, SIZE, seed=1)).isfinite()


def ragged(sizes, ids):
    """A batch whose anchors have few negatives."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(sizes, 8, dtype=torch.float64, generator=generator)
    return ContrastiveBatch.from_ids(
        torch.nn.functional.normalize(z, dim=1).requires_grad_(), torch.tensor(ids), lasting=True
    )


def test_anchors_with_few_negatives_get_the_mixtures_that_exist():
    # Anchors of class 0 have one negative, that of class 1 has three.
    batch = ragged(4, [0, 0, 0, 1])
    with torch.no_grad():
        negatives = make_sampler(f"synthetic({BOTH})")(replace(batch, context=None))
    pairs, with_anchor = mixtures(negatives)
    assert pairs.counts(batch.anchors).tolist() == [0, 0, 0, 6]
    assert with_anchor.counts(batch.anchors).tolist() == [5, 5, 5, 5]
    assert pairs.choice.coefficients.isfinite().all()
    total = negative_logsumexp(batch, negatives, 0.1)
    (gradient,) = torch.autograd.grad(total.sum(), batch.anchors.embeddings)
    assert total.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("source", ["in_batch()", "gather()", "hard(num_negatives=6)"])
def test_a_batch_without_negatives_has_a_finite_gradient(source):
    arguments = ALL if source != "hard(num_negatives=6)" else BOTH
    loss_fn = ContrastiveLoss(f"synthetic({arguments}, source={source})", seed=5)
    loss_fn(*naive.embeddings(2, SIZE)).backward()
    z = naive.embeddings(2, 1)
    with torch.no_grad():
        batch = ContrastiveBatch.from_views(tuple(z))
    negatives = make_sampler("synthetic(num_noisy=3, sigma=1.0)")(batch)
    assert (total_counts(negatives, batch.anchors) == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # hard: a ragged batch
        loss = loss_fn(*z)
    assert loss == 0
    assert (naive.gradients(loss, z) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opposite_parents_stay_finite(dtype):
    direction = torch.nn.functional.normalize(torch.randn(1, 8, dtype=dtype), dim=1)
    anchor = torch.zeros(1, 8, dtype=dtype).index_fill_(1, torch.tensor([0]), 1.0)
    rows = torch.cat([anchor, direction, -direction])
    batch = ContrastiveBatch.from_ids(rows, torch.tensor([0, 1, 2]), lasting=True)
    negatives = make_sampler("synthetic(num_mixed=20000, num_hardest=2)")(batch)
    (part,) = mixtures(negatives)
    mixed = (
        part.choice.coefficients[0, :, :1] * part.rows.embeddings[part.choice.first[0]]
        + part.choice.coefficients[0, :, 1:] * part.rows.embeddings[part.choice.second[0]]
    )
    assert part.choice.coefficients.isfinite().all()
    assert mixed.norm(dim=1).max() < 1.001
    assert mixed.norm(dim=1).median() > 0.999
    # The middle itself, which no draw is sure to hit.
    middle = unit_coefficients(torch.tensor([[0.5]], dtype=dtype), torch.tensor([[-1.0]]))
    assert middle.isfinite().all()


def test_more_hard_ones_than_a_full_batch_has_is_an_error_and_a_ragged_one_uses_all():
    z = naive.embeddings(2, SIZE)
    with pytest.raises(ValueError, match=r"num_hardest=23 is more than the 22 negatives"):
        ContrastiveLoss("synthetic(num_mixed=3, num_hardest=23)")(*z)
    loss_fn = ContrastiveLoss("synthetic(num_mixed=3, num_hardest=22)", seed=5)
    loss_fn(*z)
    batch, negatives = sampled(loss_fn, naive.embeddings(2, 3), indexes=torch.arange(3))
    (part,) = mixtures(negatives)
    assert part.counts(batch.anchors).tolist() == [3] * 6
