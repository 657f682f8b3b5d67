"""Memories of each rank's own, and an index that is bad on one rank."""

from __future__ import annotations

import warnings

import pytest
import ranks
import torch
from memories import memory, written

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.kernels.distributed import everyones
from negplug.testing.subject import difference

pytestmark = pytest.mark.filterwarnings("ignore:.*all of them are used")
RAGGED = (5, 3, 6, 4)  # sizes of the ranks' last batches


def local_memories(rank, world):
    """What a rank's own memories hold after two steps of batches that were gathered before."""
    losses = [ContrastiveLoss(f"{form}gather=False)") for form in ("queue(64, ", "memory_bank(")]
    keys, names = [], []
    for step in range(2):
        generator = torch.Generator().manual_seed(10 * step + rank)
        views = torch.randn(2, RAGGED[rank], 8, dtype=torch.float64, generator=generator)
        indexes = torch.arange(RAGGED[rank]) + 100 * rank + 10 * step
        batch = ContrastiveBatch.from_views(tuple(views.requires_grad_()), indexes, indexes % 3)
        sum(loss_fn.contrast(batch.gathered()) for loss_fn in losses).backward()
        keys.append(batch.keys.embeddings.detach())
        names.append(indexes.repeat(2))
    queue, bank = (memory(loss_fn) for loss_fn in losses)
    states = everyones([loss_fn.state_dict() for loss_fn in losses])
    told = []
    for loaded in (states[rank], states[1 - rank]):
        for loss_fn, state in zip(losses, loaded, strict=True):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loss_fn.load_state_dict(state)
            told.append([str(each.message) for each in caught])
    return queue, bank, torch.cat(keys), torch.cat(names), told


def test_local_memories_take_their_own_keys_of_a_gathered_batch():
    for rank, found in enumerate(ranks.run(local_memories, 2)):
        queue, bank, keys, indexes, told = found
        assert told[:2] == [[], []]  # its own state
        for (message,) in told[2:]:
            assert f"was saved by rank {1 - rank} of 2, this is rank {rank} of 2" in message
        assert torch.equal(queue["rows"], keys)
        assert torch.equal(queue["names"], torch.stack([indexes, indexes, indexes % 3]))
        assert torch.equal(bank["names"][1], indexes.unique())


REFUSED = [
    ([9, 1], "memory_bank: the data set index 9 is beyond size=8"),
    ([3, -1], "memory_bank: needs the data set index of every sample, but"),
    (None, "memory_bank: needs the data set index of every sample, but"),
]
"""Indexes on one rank, and what every rank says."""


def refused(rank, world):
    """For each bad step between two good ones: the error, whether it left a trace, the state."""
    found = []
    for bad, _ in REFUSED:
        for gather_first in (False, True):
            loss_fn = ContrastiveLoss("memory_bank(size=8)")
            good = [2 * rank, 2 * rank + 1]
            indexed_loss(loss_fn, good, rank, 0, gather_first).backward()
            before = loss_fn.state_dict()
            message = "no error"
            try:
                indexes = bad if rank == world - 1 else good
                indexed_loss(loss_fn, indexes, rank, 1, gather_first)
            except ValueError as error:
                message = str(error)
            unchanged = difference(loss_fn.state_dict(), before) is None
            indexed_loss(loss_fn, good, rank, 2, gather_first).backward()
            found.append((message, unchanged, loss_fn.state_dict()))
    return found


def indexed_loss(loss_fn, indexes, rank, step, gather_first):
    generator = torch.Generator().manual_seed(10 * step + rank)
    rows = torch.randn(4, 8, dtype=torch.float64, generator=generator).requires_grad_()
    rows = torch.nn.functional.normalize(rows, dim=1)
    if indexes is not None:
        indexes = torch.tensor(indexes).repeat(2)
    # As an adapter builds it, which may know some of the indexes only.
    batch = ContrastiveBatch.from_ids(rows, torch.arange(2).repeat(2), indexes=indexes)
    return loss_fn.contrast(batch.gathered() if gather_first else batch)


def test_an_index_that_is_bad_on_one_rank_is_refused_on_all():
    first, second = ranks.run(refused, 2)
    expected = [message for _, message in REFUSED for _ in range(2)]
    for message, one, other in zip(expected, first, second, strict=True):
        for told, unchanged, state in (one, other):
            assert told.startswith(message)
            assert unchanged
            names = written(state["sampler._extra_state"])["names"][1]
            assert names.sort().values.tolist() == [0, 1, 2, 3]
        assert difference(one[2], other[2]) is None
