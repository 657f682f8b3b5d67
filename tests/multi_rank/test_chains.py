"""``emc2()`` and ``isir()`` on several ranks: the chains of one process."""

from __future__ import annotations

import pytest
import ranks
import torch
from chain_steps import OPTIONS, TAU, WIDTH, with_option
from chains import held

from negplug import ContrastiveLoss, make_sampler
from negplug.testing.subject import difference

MANY = 30
EVERY = [
    with_option(expression, option) for expression in ("emc2()", "isir()") for option in OPTIONS
]
SIZES = [(3, 3, 3, 3), (2, 4, 3, 1)]
"""Batch sizes of the ranks in even and odd steps."""


def parts(step, world):
    """The data set indexes of every rank's batch."""
    order = torch.randperm(MANY, generator=torch.Generator().manual_seed(step))
    sizes = SIZES[step % 2][:world]
    return order[: sum(sizes)].split(sizes)


def trained(expression, indexes_of, world, steps=8):
    """Gradients by the whole data set's embeddings, summed over the steps; the state at the end."""
    sampler = held(make_sampler(expression))
    loss_fn = ContrastiveLoss(sampler, temperature=TAU)
    total = torch.zeros(2, MANY, WIDTH, dtype=torch.float64)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        leaves = torch.randn(total.shape, dtype=total.dtype, generator=generator).requires_grad_()

        def encode(wanted, leaves=leaves):
            return tuple(leaves[:, wanted])

        loss_fn(*leaves[:, indexes_of(step)], indexes=indexes_of(step), encode=encode).backward()
        total += leaves.grad
    loss_fn.end_step()
    return total, sampler.get_extra_state()


def on_a_rank(rank, world):
    return [trained(each, lambda step: parts(step, world)[rank], world) for each in EVERY]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_are_one_process_on_the_concatenated_batch(world):
    """With the same uniforms; otherwise the draws are keyed by the rank, as of every sampler."""
    found = ranks.run(on_a_rank, world, timeout=60)
    for number, expression in enumerate(EVERY):
        gradient, state = trained(expression, lambda step: torch.cat(parts(step, world)), 1)
        for _, other in (rank[number] for rank in found):
            assert difference(other, found[0][number][1]) is None
            assert torch.equal(other["chains"]["state"], state["chains"]["state"])
            torch.testing.assert_close(other["chains"], state["chains"], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(other["cache"], state["cache"], rtol=1e-9, atol=1e-9)
        mean = sum(rank[number][0] for rank in found) / world
        torch.testing.assert_close(mean, gradient, rtol=1e-7, atol=1e-9)
