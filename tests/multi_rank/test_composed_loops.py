"""Composed batches in plain loops on ranks: their own parts of the same batches."""

from __future__ import annotations

import ranks
import torch
from composed_loops import BATCH, WALK, Loop, Points, sampler
from torch.utils.data import BatchSampler, DistributedSampler

from negplug.kernels.errors import RanksError

SIZE = 27


def outcome(function):
    try:
        return function()
    except (RanksError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def train(rank, drop_last):
    """Return the batches, those of a run that resumes, the state, and what was refused."""
    data = Points(SIZE)
    straight = Loop(sampler(dataset=data, seed=rank, drop_last=drop_last)).train(0, 1)
    refused = outcome(straight.batches.state_dict)
    straight.batches.merge()
    state = straight.batches.state_dict()
    net = {name: value.clone() for name, value in straight.net.state_dict().items()}
    straight.train(2, 3)
    again = Loop(sampler(dataset=data, seed=50 + rank, drop_last=drop_last))
    again.batches.load_state_dict(state)
    again.net.load_state_dict(net)
    again.train(2, 3)
    return straight.epochs, again.epochs, state, refused


def differ(rank):
    """Return what the ranks are told of what differs between them."""
    late = sampler()
    late.set_epoch(rank)
    taught = sampler()
    if rank == 0:
        taught.update(torch.arange(4), torch.eye(4))
    cases = [sampler(batch_size=BATCH + rank), sampler("clustered()" if rank else WALK), late]
    return [outcome(lambda case=case: list(case)) for case in [*cases, taught]]


def unequal(rank):
    """Merge after other numbers of steps: one of them was skipped on rank 0."""
    batches = sampler()
    for _ in range(1 + rank):
        batches.update(torch.arange(4) + 2 * rank, torch.eye(4).roll(rank, 0))
    batches.merge()
    batches.merge()
    return batches.state_dict()


def everything(rank, world):
    return [train(rank, drop_last) for drop_last in (False, True)], differ(rank), unequal(rank)


def test_ranks_have_their_parts_of_the_same_batches_resume_and_fail_together():
    trained, told, merged = zip(*ranks.run(everything, 2), strict=True)
    for case, drop_last in enumerate((False, True)):
        found = [each[case] for each in trained]
        own = DistributedSampler(range(SIZE), 2, 0, drop_last=drop_last)
        sizes = list(map(len, BatchSampler(own, BATCH, drop_last)))
        for epoch in range(4):
            parts = [straight[epoch] for straight, *_ in found]
            assert [list(map(len, part)) for part in parts] == [sizes, sizes]
            held = [sample for part in parts for batch in part for sample in batch]
            assert len(set(held)) == min(len(held), SIZE)  # one again, to fill up
        for straight, again, state, refused in found:
            assert again == straight[2:]
            assert state["seed"] == 0  # rank 0's
            assert torch.equal(state["bank"]["rows"], found[0][2]["bank"]["rows"])
            assert "call merge() on every rank, and state_dict() after it" in refused
    for said in told:
        sizes, composers, epochs, taught = said
        assert "batches of 4, drop_last=False, no embeddings, rank 1 has" in sizes
        assert (
            "RanksError: the ranks compose different batches: rank 0 has random_walk" in composers
        )
        assert "epoch 0, 26 samples" in epochs
        assert "epoch 1, 26 samples" in epochs
        assert "embeddings of width 4, rank 1 has" in taught
    first, second = (state["bank"] for state in merged)
    assert first["written"] == second["written"] == 8
    assert torch.equal(first["rows"], second["rows"])
    wanted = torch.cat([torch.eye(4)[:2], torch.eye(4).roll(1, 0)])  # the later ones are rank 1's
    assert torch.equal(first["rows"][:6], wanted)
