"""Ranks in DDP's `join()`, of which one ends before the other."""

from __future__ import annotations

import ranks
import torch
import torch.distributed.nn  # before the process group, or it keeps the group from being destroyed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from negplug import ContrastiveLoss
from negplug.kernels.errors import RanksError
from negplug.loss import agreement


def joined(rank, world):
    """What each sampler comes to: the number of steps done, or the message of the refusal."""
    found = {}
    for sampler in ("in_batch()", "gather()", "queue(size=16)"):
        model = DistributedDataParallel(nn.Linear(6, 4))
        loss_fn, steps = ContrastiveLoss(sampler, seed=3), 0
        try:
            with model.join():
                for _ in range(2 + rank):
                    z = model(torch.randn(8, 6))
                    loss_fn(z[:4], z[4:]).backward()
                    steps += 1
            found[sampler] = steps
        except RanksError as error:
            found[sampler] = str(error)
        del model
    return found


def test_a_loss_that_exchanges_rows_is_refused_on_all_ranks_in_the_first_step():
    for rank, found in enumerate(ranks.run(joined, 2)):
        assert found["in_batch()"] == 2 + rank
        assert "the ranks train in join(), where some end before" in found["gather()"]
        assert found["queue(size=16)"] == found["gather()"]


def warmed_up(rank, world):
    """How often a loss whose temperature falls in each step has looked for `join()`."""
    looks, look = [], agreement.joins_uneven_inputs
    agreement.joins_uneven_inputs = lambda: looks.append(look()) or looks[-1]
    loss_fn = ContrastiveLoss("gather()", seed=3)
    for step in range(3):
        loss_fn.temperature = 0.5 - 0.1 * step
        z = torch.randn(8, 6, requires_grad=True)
        loss_fn(z[:4], z[4:]).backward()
    agreement.joins_uneven_inputs = look
    return looks


def test_it_is_looked_for_once():
    # Among all objects of the process: it takes half a second in a large one.
    assert ranks.run(warmed_up, 2) == [[False], [False]]
