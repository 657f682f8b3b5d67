"""A gradient cache by hand on ranks has the gradient and the memory of the whole batch."""

from __future__ import annotations

import ranks
import torch
from torch import nn

from negplug import ContrastiveLoss

STEPS, SIZE, K = 3, 8, 2
SAMPLERS = ["gather()", "uniform(num_negatives=5)", "queue(size=64)"]


def train(rank, world, sampler, by_chunks):
    """Return the gradients of each step, summed over ranks, and the final state."""
    torch.manual_seed(0)
    head = nn.Linear(7, 6).double()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    loss_fn = ContrastiveLoss(sampler, seed=3)
    generator = torch.Generator().manual_seed(rank)
    found = []
    for _ in range(STEPS):
        views = torch.randn(2, K, SIZE // K, 7, generator=generator).double()
        if by_chunks:
            constants = head(views).detach()
            for k in range(K):
                parts = [
                    [*c[:k], head(v[k]), *c[k + 1 :]] for c, v in zip(constants, views, strict=True)
                ]
                loss_fn(*map(torch.cat, parts)).backward()
        else:
            loss_fn(*head(views.flatten(1, 2))).backward()
        for parameter in head.parameters():
            torch.distributed.all_reduce(parameter.grad)
            found.append(parameter.grad.clone())
        optimizer.step()
        optimizer.zero_grad()
    return found, list(loss_fn.buffers())


def both_ways(rank, world):
    return [
        [train(rank, world, sampler, chunks) for chunks in (True, False)] for sampler in SAMPLERS
    ]


def test_chunks_are_the_whole_batch_on_every_rank():
    for found in ranks.run(both_ways, 2):
        for by_chunks, whole in found:
            torch.testing.assert_close(by_chunks, whole)
