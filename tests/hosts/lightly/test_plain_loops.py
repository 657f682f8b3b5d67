"""Lightly's criteria in loops without a Trainer: nobody closes their steps."""

from __future__ import annotations

import copy

import naive
import pytest
import torch
from device import DEVICE
from queue_contents import names_in, rows_in
from resumable import same_state

from negplug import Metadata, inject

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


def test_a_plain_loop_needs_nobody_to_close_its_steps():
    criterion = NTXentLoss(memory_bank_size=(64, 16))
    handle = inject(criterion, "queue()")
    for step in range(3):
        z = naive.embeddings(2, 4, seed=step)
        loss = (criterion(*z) + criterion(*reversed(z))) / 2
        loss.backward()
    state = handle.state_dict()["NTXentLoss"]
    assert state["_extra_state"]["further"] == 1
    for name in ("sampler", "further.0.sampler"):
        assert len(rows_in(state, name)) == 12


PLAIN_LOOP = ["queue(size=64)", "memory_bank()", "uniform(num_negatives=4)"]


@pytest.mark.parametrize("sampler", PLAIN_LOOP)
def test_a_plain_loop_resumes_bit_for_bit_though_nobody_closes_its_steps(sampler):
    def start(seed):
        torch.manual_seed(seed)
        criterion = NTXentLoss()
        return criterion, inject(criterion, sampler)

    def run(criterion, handle, steps):
        losses = []
        for step in steps:
            z = naive.embeddings(2, 4, seed=step)
            if sampler == "memory_bank()":
                handle.provide(indexes=torch.arange(4) + 2 * step)
            loss = criterion(*z)
            loss.backward()
            losses.append(loss.detach())
        return losses

    straight, stopped, resumed = start(0), start(0), start(123)
    losses = run(*straight, range(6))
    assert len(set(map(float, losses))) > 4
    first = run(*stopped, range(3))
    state = copy.deepcopy(stopped[1].state_dict())
    assert state["NTXentLoss"]["_extra_state"]["step"] == 3
    resumed[1].load_state_dict(state)
    assert torch.equal(torch.stack(first + run(*resumed, range(3, 6))), torch.stack(losses))
    assert same_state(resumed[1].state_dict(), straight[1].state_dict())
    # The run that was saved goes on as if it had not been.
    assert torch.equal(torch.stack(run(*stopped, range(3, 6))), torch.stack(losses[3:]))


def test_what_provide_says_holds_for_one_step():
    criterion, z = NTXentLoss(), naive.embeddings(2, 4)
    with inject(criterion, "memory_bank()") as handle:
        with pytest.raises(ValueError, match="the data set indexes of the batch are unknown"):
            criterion(*z)
        handle.provide(indexes=torch.arange(4))
        (criterion(*z) + criterion(*reversed(z))).backward()
        with pytest.raises(ValueError, match=r"plain loop has to call provide\(indexes=…\)"):
            criterion(*z)
        handle.provide(indexes=torch.arange(4) + 4)
        criterion(*z).backward()
    state = handle.state_dict()["NTXentLoss"]
    for name, indexes in (("sampler", range(8)), ("further.0.sampler", range(4))):
        assert names_in(state, name)[1].tolist() == list(indexes)


def test_what_a_site_knows_for_a_while_gives_way_to_what_was_provided():
    criterion = NTXentLoss()
    handle = inject(criterion, "in_batch()")
    (treated,) = handle.losses.values()
    indexes = torch.arange(4)
    handle.provide(indexes=indexes)

    def fail():
        with treated.knowing(Metadata(labels=indexes)):
            assert treated.metadata.indexes is None
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert treated.metadata.indexes is indexes
    criterion(*naive.embeddings(2, 4)).backward()
    assert treated.metadata.indexes is None  # forgotten with the step's backward pass


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_was_provided_lasts_as_long_as_its_step_is_computed(checkpointed):
    """For every evaluation of a closure, and where checkpointing computes a call again."""
    layer, criterion = torch.nn.Linear(16, 16).double().to(DEVICE), NTXentLoss()
    optimizer = torch.optim.LBFGS(layer.parameters(), lr=0.05, max_iter=4)
    handle = inject(criterion, "hierarchical(in_batch(), memory_bank())")
    (treated,) = handle.losses.values()

    def loss(z):
        return criterion(layer(z[0]), layer(z[1]))

    def closure():
        optimizer.zero_grad()
        part = torch.utils.checkpoint.checkpoint
        found = part(loss, z, use_reentrant=False) if checkpointed else loss(z)
        found.backward()
        return found

    for step in range(3):
        z = torch.stack(naive.embeddings(2, 4, seed=step)).detach()
        handle.provide(indexes=torch.arange(4) + 4 * step)
        optimizer.step(closure)
    assert treated.calls > 6
    state = handle.state_dict()["NTXentLoss"]
    assert state["_extra_state"]["step"] == 3
    assert names_in(state, "sampler.tiers.1")[1].tolist() == list(range(12))
    with pytest.raises(ValueError, match="the data set indexes of the batch are unknown"):
        optimizer.step(closure)
