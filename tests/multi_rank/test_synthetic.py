"""``synthetic`` on two ranks."""

from __future__ import annotations

import naive
import pytest
import ranks
import torch
from mixing import ALL
from tiers import SIZE

from negplug import ContrastiveLoss


def of_this_rank(rank, world, source):
    loss_fn = ContrastiveLoss(f"synthetic({ALL}, source={source})", temperature=0.2, seed=5)
    found = []
    for step in range(3):
        z = naive.embeddings(2, SIZE - 3 * rank, seed=10 * step + rank)
        loss = loss_fn(*z)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, z)]))
    loss_fn.state_dict()  # applies what is pending
    source = loss_fn.sampler.source
    return found, source.rows[: source.count] if source.remembers else torch.empty(0)


@pytest.mark.parametrize("source", ["in_batch()", "gather()", "queue(size=96)"])
def test_two_ranks_train(source):
    (first, rows), (second, others) = ranks.run(of_this_rank, 2, source)
    for one, other in zip(first, second, strict=True):
        assert one.isfinite().all()
        assert other.isfinite().all()
    assert torch.equal(rows, others)
    if source == "queue(size=96)":
        assert first[0].abs().max() == 0  # the queue is empty in the first step
    assert first[2].abs().max() > 0
