"""Lightly's NTXentLoss on several ranks: the loss of one process."""

from __future__ import annotations

import naive
import pytest
import ranks
import torch

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


def _unequal(rank: int, world: int, sampler: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = slice(0, 3) if rank == 0 else slice(3, 7)
    z = [v.detach()[rows].requires_grad_() for v in naive.embeddings(2, 7, seed=3)]
    criterion = NTXentLoss(temperature=0.2, gather_distributed=True)
    with inject(criterion, sampler):
        loss = criterion(*z)
        return loss.detach(), naive.gradients(loss, z).view(2, len(z[0]), -1)


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=12)"])
def test_batches_of_different_sizes_on_ranks_count_by_their_rows(sampler):
    (loss0, grad0), (loss1, grad1) = ranks.run(_unequal, 2, sampler)
    z = naive.embeddings(2, 7, seed=3)
    alone = naive.simclr(z, 0.2)
    # DDP averages: the mean over ranks is the loss, and the gradient, of one process on all rows.
    torch.testing.assert_close((loss0 + loss1) / 2, alone.detach(), rtol=1e-12, atol=0)
    together = torch.cat([grad0, grad1], dim=1) / 2
    torch.testing.assert_close(
        together, naive.gradients(alone, z).view(2, 7, -1), rtol=1e-9, atol=1e-14
    )


def _other_width(rank: int, world: int) -> str:
    z = naive.embeddings(2, 4, width=8 + rank)
    criterion = NTXentLoss(gather_distributed=True)
    with inject(criterion, "in_batch()"):
        try:
            criterion(*z)
        except ValueError as error:
            return str(error)
    return "no error"


def test_embeddings_of_different_widths_on_ranks_are_refused_everywhere():
    for message in ranks.run(_other_width, 2):
        assert "the ranks have embeddings of widths [8, 9]" in message


def _gathered(rank: int, world: int, sampler: str) -> dict[str, torch.Tensor]:
    everything = naive.embeddings(2, 4 * world, seed=3)
    z = [v.detach()[4 * rank : 4 * rank + 4].requires_grad_() for v in everything]
    criterion = NTXentLoss(temperature=0.2, gather_distributed=True)
    found = {}
    theirs = criterion(*z)
    found["theirs"], found["their_grad"] = theirs.detach(), naive.gradients(theirs, z)
    with inject(criterion, sampler):
        ours = criterion(*z)
        found["ours"], found["our_grad"] = ours.detach(), naive.gradients(ours, z)
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_gathered_on_ranks_equals_the_host_and_one_process(world):
    found = ranks.run(_gathered, world, "in_batch()")
    z = naive.embeddings(2, 4 * world, seed=3)
    alone = naive.simclr(z, 0.2)
    whole = naive.gradients(alone, z).view(2, world, 4, -1)
    for rank, one in enumerate(found):
        torch.testing.assert_close(one["ours"], one["theirs"], rtol=1e-12, atol=0)
        assert naive.relative(one["our_grad"], one["their_grad"]) < 1e-10
        # DDP averages gradients: the mean over ranks is the gradient of the global mean.
        mine = one["our_grad"].view(2, 4, -1) / world
        torch.testing.assert_close(mine, whole[:, rank], rtol=1e-9, atol=1e-14)
    mean = sum(one["ours"] for one in found) / world
    torch.testing.assert_close(mean, alone.detach(), rtol=1e-12, atol=0)


def test_uniform_on_ranks_draws_from_the_global_batch():
    found = ranks.run(_gathered, 2, "uniform(num_negatives=14)")
    for one in found:  # all 14 of 2·8 − 2: as the whole batch
        torch.testing.assert_close(one["ours"], one["theirs"], rtol=1e-12, atol=0)
    found = ranks.run(_gathered, 2, "uniform(num_negatives=10)")
    for one in found:  # more than the 6 that this rank has alone
        assert one["ours"].isfinite()
        assert one["our_grad"].isfinite().all()
