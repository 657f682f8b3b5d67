"""What ``hierarchical`` takes for a tier, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from device import DEVICE
from tiers import LABELS, SIZE, batch_of, trained

from negplug import ContrastiveBatch, ContrastiveLoss, NegativeSampler, make_sampler
from negplug.samplers.hierarchical import Hierarchical


def test_most_is_the_sum_or_left_to_the_batch():
    assert make_sampler("hierarchical(queue(size=8), uniform(num_negatives=3))").most == 11
    assert make_sampler("hierarchical(queue(size=8), in_batch())").most is None
    with pytest.raises(ValueError, match="num_negatives=12 is more than the 11 rows"):
        make_sampler(
            "uniform(num_negatives=12, "
            "source=hierarchical(queue(size=8), uniform(num_negatives=3)))"
        )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("hierarchical()", ValueError, "needs two tiers or more, got 0"),
        ("hierarchical(in_batch())", ValueError, "needs two tiers or more, got 1"),
        ("hierarchical(in_batch(), 3)", TypeError, "tier 2 must be a sampler, got 3"),
        ("hierarchical('queue', in_batch())", TypeError, "tier 1 must be a sampler, got 'queue'"),
        ("hierarchical(in_batch(), in_batch(), source=in_batch())", ValueError, "source"),
    ],
)
def test_what_is_no_tier_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        make_sampler(text)


@pytest.mark.parametrize(
    "tiers",
    [
        "uniform(num_negatives=4, correction=True), in_batch()",
        "uniform(num_negatives=4), uniform(num_negatives=4, correction=True)",
        "filtered(by='labels'), uniform(num_negatives=4, correction=True)",
    ],
)
def test_weights_of_rows_that_tiers_may_share_are_refused(tiers):
    z = naive.embeddings(2, SIZE)
    with pytest.raises(ValueError, match="the weight of a row in both is not defined"):
        ContrastiveLoss(f"hierarchical({tiers})")(*z, labels=LABELS)


def test_weights_in_pools_apart_are_kept():
    weighted = "uniform(num_negatives=4, correction=True)"
    ours = trained(f"hierarchical({weighted}, queue(size=72))")
    batch = batch_of(ours, naive.embeddings(2, SIZE))
    first, second = ours.sampler(batch)
    torch.testing.assert_close(
        first.log_weight.exp(),
        torch.full((2 * SIZE, 1), 22 / 4, dtype=torch.float64, device=DEVICE),
    )
    assert second.log_weight is None


def test_draws_from_the_softmax_are_refused():
    class Posterior(NegativeSampler):
        def sample(self, batch):
            return replace(make_sampler("in_batch()").sample(batch), estimator="posterior")

    sampler = Hierarchical(make_sampler("in_batch()"), Posterior())
    batch = ContrastiveBatch.from_views(tuple(naive.embeddings(2, SIZE)))
    with pytest.raises(ValueError, match=r"tier 2, Posterior\(\), draws from the softmax"):
        sampler(batch)
