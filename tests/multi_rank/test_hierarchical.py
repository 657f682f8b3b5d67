"""``hierarchical`` on several ranks: local and gathered tiers overlap there too."""

from __future__ import annotations

import naive
import pytest
import ranks
import torch
from tiers import LABELS, SIZE, TEMPERATURE, rows_of

from negplug import ContrastiveBatch, ContrastiveLoss, Draws, make_sampler


def of_this_rank(rank, world, text, steps=1):
    """Losses and gradients of uneven batches on one rank."""
    loss_fn = ContrastiveLoss(text, temperature=TEMPERATURE, seed=5)
    found = []
    for step in range(steps):
        z = naive.embeddings(2, SIZE - 3 * rank, seed=10 * step + rank)
        loss = loss_fn(*z)
        found.append((loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, z)])))
    return found


CONTAINED = [
    "in_batch(), gather()",
    "gather(), in_batch()",
    "uniform(num_negatives=3), gather()",
    "gather(), uniform(num_negatives=3), in_batch()",
    "uniform(num_negatives=3, source=gather()), uniform(num_negatives=3), gather()",
]


def contained(rank, world):
    """Loss and gradient of each union of tiers, and of all gathered keys."""
    texts = ["gather()", *(f"hierarchical({tiers})" for tiers in CONTAINED)]
    return [of_this_rank(rank, world, text)[0] for text in texts]


def test_keys_of_this_rank_are_among_the_gathered_ones():
    for (loss, gradient), *each in ranks.run(contained, 2):
        for tiers, one in zip(CONTAINED, each, strict=True):
            assert one[0] == loss, tiers
            assert torch.equal(one[1], gradient), tiers


def tiers_of_this_rank(rank, world, tiers):
    """The union of the tiers as columns of the gathered keys, by a loop; and what was made."""
    sampler = make_sampler(f"hierarchical({tiers})")
    for number, part in enumerate(sampler.all_samplers()):
        part.stream = number
    z = naive.embeddings(2, SIZE - 3 * rank, seed=rank)
    size = len(z[0])
    labels = LABELS[:size]
    batch = ContrastiveBatch.from_views(tuple(z), 50 * rank + torch.arange(size), labels)
    batch = batch.within(draws=Draws(5, rank=rank))
    made = sampler(batch)
    everywhere = batch.gathered().keys.embeddings.detach()

    def columns(negatives):
        rows = [[] for _ in batch.anchors.embeddings]
        for part in negatives:
            one = rows_of([part], batch)
            for i, chosen in enumerate(one):
                for _, k in chosen:
                    row = part.rows.embeddings[k].detach()
                    (at,) = (everywhere == row).all(1).nonzero().tolist()
                    rows[i].append(at[0])
        return [sorted(row) for row in rows]

    each = [columns(tier(batch)) for tier in sampler.tiers]
    union = [sorted(set().union(*rows)) for rows in zip(*each, strict=True)]
    return columns(made), union, sum(len(row) for tier in each for row in tier)


@pytest.mark.parametrize(
    "tiers",
    [
        "uniform(num_negatives=6), uniform(num_negatives=25, source=gather())",
        "uniform(num_negatives=25, source=gather()), uniform(num_negatives=6)",
        "in_batch(), uniform(num_negatives=25, source=gather())",
        "in_batch(), filtered(by='labels', source=gather())",
        "filtered(by='labels'), filtered(similarity=0.1, source=gather())",
        "filtered(by='labels'), uniform(num_negatives=25, source=gather())",
    ],
)
def test_local_and_gathered_tiers_overlap_on_every_rank(tiers):
    for made, union, number in ranks.run(tiers_of_this_rank, 2, tiers):
        assert made == union
        assert sum(map(len, made)) < number


def test_gathering_tiers_and_queues_train_on_two_ranks():
    text = (
        "hierarchical(uniform(num_negatives=3, source=gather()), "
        "uniform(num_negatives=4, source=queue(size=96)), queue(size=96, gather=False))"
    )
    for found in ranks.run(of_this_rank, 2, text, 3):
        assert len(found) == 3
        assert all(gradient.isfinite().all() for _, gradient in found)
