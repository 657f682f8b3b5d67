"""Ranks in DDP's `join()`, of which one ends before the other."""

from __future__ import annotations

import ranks
import torch
import torch.distributed.nn  # before the process group, or it keeps the group from being destroyed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from negplug import ContrastiveLoss
from negplug.kernels.errors import RanksError


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
