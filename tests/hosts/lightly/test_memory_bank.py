"""Lightly's NTXentLoss with a memory bank: the same loss, and where ours differs.

Where the hosts' queues are full and hold the same keys, ``queue()`` is the same loss. Where ours
differs on purpose, the host's behaviour and ours stand side by side.
"""

from __future__ import annotations

import copy
import importlib.util
import math

import hosts
import naive
import pytest
import ranks
import torch
from device import DEVICE
from queue_contents import holds, rows_of
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from negplug import inject

HAS_LIGHTLY = importlib.util.find_spec("lightly") is not None
HAS_SOLO = hosts.solo_generation() is not None
lightly_only = pytest.mark.skipif(not HAS_LIGHTLY, reason="of Lightly")
pytestmark = [
    pytest.mark.skipif(not (HAS_LIGHTLY or HAS_SOLO), reason="no host is installed"),
    pytest.mark.filterwarnings("ignore"),
]


def criterion_with_bank(size, temperature=0.2, width=16, **kwargs):
    from lightly.loss import NTXentLoss

    # The bank is float32 until the criterion is cast.
    criterion = NTXentLoss(temperature, memory_bank_size=(size, width), **kwargs)
    return criterion.to(DEVICE, torch.float64)


def run_bank(criterion, twin, handle, steps, size, momentum_keys, seed):
    """Values and gradients of the host and of ours, step by step."""
    found = []
    for number in range(steps):
        z0, z1 = naive.embeddings(2, size, seed=seed(number))
        z1, wanted = (z1.detach(), [z0]) if momentum_keys else (z1, [z0, z1])
        theirs, ours = criterion(z0, z1), twin(z0, z1)
        gradients = naive.gradients(theirs, wanted), naive.gradients(ours, wanted)
        found.append([theirs.detach(), ours.detach(), *gradients])
        handle.end_step()
    return found


@lightly_only
@pytest.mark.parametrize("momentum_keys", [False, True])
def test_a_full_bank_is_a_full_queue(momentum_keys):
    criterion = criterion_with_bank(24)
    twin = copy.deepcopy(criterion)
    noise = twin.memory_bank.bank.clone()
    with inject(twin, "queue()") as handle:
        found = run_bank(criterion, twin, handle, 9, 6, momentum_keys, seed=lambda s: s)
        rounding = {"rtol": 1e-14, "atol": 1e-16}  # of lengths in float64
        torch.testing.assert_close(rows_of(handle), criterion.memory_bank.bank, **rounding)
    for theirs, ours, _, _ in found[:4]:
        assert ours < theirs  # noise is among their negatives
    for theirs, ours, their_grad, our_grad in found[4:]:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10
    # The host's own bank was left alone, and serves again once ours is removed.
    assert torch.equal(twin.memory_bank.bank, noise)
    assert int(twin.memory_bank.bank_ptr) == 0
    twin(*naive.embeddings(2, 6))
    assert int(twin.memory_bank.bank_ptr) == 6


def _bank_on_ranks(rank, world):
    torch.manual_seed(0)
    criterion = criterion_with_bank(24, gather_distributed=True)
    twin = copy.deepcopy(criterion)
    with inject(twin, "queue()") as handle:
        found = run_bank(criterion, twin, handle, 6, 3, False, seed=lambda s: 10 * s + rank)
    return found[4:]


@lightly_only
def test_a_full_bank_is_a_full_queue_on_ranks():
    found = ranks.run(_bank_on_ranks, 2)
    for theirs, ours, their_grad, our_grad in found[0] + found[1]:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10
    assert found[0][0][0] != found[1][0][0]


@lightly_only
def test_with_a_bank_in_batch_means_the_other_keys_never_queries():
    z0, z1 = naive.embeddings(2, 5)
    criterion = criterion_with_bank(20)
    with inject(criterion, "in_batch()"):
        ours = criterion(z0, z1)
    logits = normalize(z0) @ normalize(z1).T / 0.2
    losses = [-torch.log(torch.exp(row[i]) / torch.exp(row).sum()) for i, row in enumerate(logits)]
    torch.testing.assert_close(ours, torch.stack(losses).mean())


def _in_batch_on_ranks(rank, world, gather):
    z0, z1 = naive.embeddings(2, 3 * world, seed=1)
    own = slice(3 * rank, 3 * rank + 3)
    criterion = criterion_with_bank(20, gather_distributed=gather)
    with inject(criterion, "in_batch()"):
        ours = criterion(z0[own], z1[own])
    keys = z1 if gather else z1[own]
    logits = normalize(z0[own]) @ normalize(keys).T / 0.2
    target = torch.arange(3) + (3 * rank if gather else 0)
    return ours.detach(), nn.functional.cross_entropy(logits, target).detach()


@lightly_only
@pytest.mark.parametrize("gather", [False, True])
def test_with_a_bank_in_batch_gathers_as_the_host_does(gather):
    for ours, wanted in ranks.run(_in_batch_on_ranks, 2, gather):
        torch.testing.assert_close(ours, wanted)


@lightly_only
def test_noise_at_the_start():
    z = naive.embeddings(2, 6)
    first = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        first.append(criterion_with_bank(24)(*z))
    assert first[0] > 1  # log of 24 random negatives and more
    assert first[0] != first[1]  # the noise is the initialisation's
    criterion = criterion_with_bank(24)
    with inject(criterion, "queue()"):
        ours = criterion(*z)
        assert ours == 0  # no key was ever written
        assert torch.equal(naive.gradients(ours, z), ours.new_zeros(2 * 6 * 16))


@lightly_only
def test_the_tail_of_a_batch_that_crosses_the_end():
    criterion, twin = criterion_with_bank(10), criterion_with_bank(10)
    pointers, batches = [], [naive.embeddings(2, 4, seed=s) for s in range(4)]
    with inject(twin, "queue()") as handle:
        for number, z in enumerate(batches):
            criterion(*z), twin(*z).backward()
            handle.end_step()
            pointers.append(int(criterion.memory_bank.bank_ptr))
            if number == 2:
                theirs, ours = criterion.memory_bank.bank, rows_of(handle)
                assert holds(theirs, z[1]).tolist() == [True, True, False, False]
                assert holds(ours, z[1]).all()
                assert holds(ours, batches[0][1]).tolist() == [False, False, True, True]
    assert pointers == [4, 8, 0, 4]


@lightly_only
def test_an_anchors_own_past_as_its_negative():
    # A bank larger than the data set: at the second visit each anchor's positive is in it too.
    z = naive.embeddings(2, 6, width=64, spread=0.01)
    criterion = criterion_with_bank(24, temperature=0.05, width=64)
    twin = copy.deepcopy(criterion)
    criterion(*z)
    assert criterion(*z) > math.log(2)
    with inject(twin, "queue()") as handle:
        for _ in range(2):
            handle.provide(indexes=torch.arange(6))
            ours = twin(*z)
            naive.gradients(ours, z)
            handle.end_step()
        assert 0 < ours < 0.1
        assert twin(*z) > math.log(2)  # without indexes nobody can know


@lightly_only
def test_a_loss_called_twice_in_a_step():
    z = naive.embeddings(2, 6)
    criterion, twin = criterion_with_bank(24), criterion_with_bank(24)
    criterion(*z), criterion(*z)
    assert int(criterion.memory_bank.bank_ptr) == 12  # the keys are in the bank twice
    with inject(twin, "queue()") as handle:
        first, second = twin(*z), twin(*z)
        assert first == second == 0  # the second call does not meet the first one's keys
        naive.gradients(first + second, z)
        handle.end_step()
        assert torch.equal(rows_of(handle), rows_of(handle, "further.0.sampler"))
        assert len(rows_of(handle)) == 6
        assert twin(*z) == twin(*z) > 0


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16, dtype=torch.float64)
        self.criterion = criterion_with_bank(24)

    def forward(self, z0, z1):
        return self.criterion(self.layer(z0), self.layer(z1))


def _broadcast(rank, world, sampler):
    torch.manual_seed(0)
    model = Branches()
    handle = None if sampler is None else inject(model, sampler)
    parallel = DistributedDataParallel(model)
    for number in range(2):
        z = [v.detach() for v in naive.embeddings(2, 3, seed=10 * number + rank)]
        if number == 0:
            mine = normalize(model.layer(z[1])).detach()
        parallel(*z).backward()
        if handle is not None:
            handle.end_step()
    rows = model.criterion.memory_bank.bank if handle is None else rows_of(handle)
    return torch.allclose(rows[:3], mine, rtol=1e-14, atol=1e-16), rows


@lightly_only
def test_the_broadcast_of_buffers():
    (kept0, rows0), (kept1, rows1) = ranks.run(_broadcast, 2, None)
    assert (kept0, kept1) == (True, False)  # rank 1's first keys are overwritten by rank 0's
    assert torch.equal(rows0[:3], rows1[:3])
    (kept0, rows0), (kept1, rows1) = ranks.run(_broadcast, 2, "queue(gather=False)")
    assert (kept0, kept1) == (True, True)
    assert not holds(rows0, rows1).any()


def _weights_after(sampler, tmp_path, resume):
    """The weights after two epochs, in one run or with a stop in between."""
    control = [] if sampler is None else [hosts.negative_control()(sampler)]
    hosts.lightning().seed_everything(0)
    model, checkpoint = hosts.queue_recipe(24), str(tmp_path / "a.ckpt")
    trainer = hosts.trainer(callbacks=control, max_epochs=1 if resume else 2)
    trainer.fit(model, hosts.loader())
    if resume:
        trainer.save_checkpoint(checkpoint)
        control = [] if sampler is None else [hosts.negative_control()(sampler)]
        hosts.lightning().seed_everything(1)  # as another process has it
        model = hosts.queue_recipe(24)
        hosts.trainer(callbacks=control, max_epochs=2).fit(
            model, hosts.loader(), ckpt_path=checkpoint
        )
    return hosts.parameters(model)


@lightly_only
@pytest.mark.parametrize("sampler", [None, "queue()"])
def test_the_bank_after_a_resume(sampler, tmp_path):
    whole, resumed = (_weights_after(sampler, tmp_path, resume) for resume in (False, True))
    # Lightly's bank is in no checkpoint, so the second epoch begins with noise again.
    assert torch.equal(whole, resumed) == (sampler is not None)
