"""A rank that calls no treated loss: the others say so, and wait neither long nor for ever."""

from __future__ import annotations

import os
import time

import ranks
import torch
from unequal_ranks import said, train

from negplug import ContrastiveLoss
from negplug.kernels import meeting


def absent(rank, world, sampler):
    """Rank 1 trains without negplug."""
    os.environ[meeting.VARIABLE] = "1"
    begun = time.monotonic()
    heard = [said(train, ContrastiveLoss(sampler, seed=3), rank, n) for n in range(2 * (1 - rank))]
    while rank and time.monotonic() < begun + 3:
        time.sleep(0.1)  # rank 0's store lives in a process of its own, which must not end first
    return heard


def late(rank, world):
    """Rank 1 is slow, and then the first call fails on it."""
    os.environ[meeting.VARIABLE] = "x"
    heard = [said(train, ContrastiveLoss("gather()", seed=3), rank, 0)]
    os.environ[meeting.VARIABLE] = "30"
    loss_fn = ContrastiveLoss("gather()", seed=3)
    time.sleep(rank)
    bad = {"z0": torch.full((4, 6), torch.nan)} if rank else {}
    heard.append(said(train, loss_fn, rank, 0, **bad))
    os.environ[meeting.VARIABLE] = "1"
    time.sleep(1.5 * rank)  # they have met: a later step may take its time
    return [*heard, said(train, loss_fn, rank, 1)]


def test_a_rank_that_never_comes():
    for sampler in ("uniform(num_negatives=2)", "queue(size=16)"):
        heard, nothing = ranks.run(absent, 2, sampler)
        assert nothing == []
        for kind, message in heard:
            assert kind == "RanksError"
            assert message.startswith("rank 1 has called no loss that negplug treats within 1 s")
            assert "NEGPLUG_SAMPLER" in message


def test_a_rank_that_is_late():
    for heard in ranks.run(late, 2):
        assert heard[0] == (
            "ValueError",
            "NEGPLUG_RANKS_TIMEOUT must be a number of seconds above 0, got 'x'",
        )
        assert "NaN" in heard[1][1]
        assert heard[2] is None
