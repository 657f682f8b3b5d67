"""Tiers of ``hierarchical`` with equal memories, which are one."""

from __future__ import annotations

import io

import naive
import pytest
import torch
from tiers import SIZE, TEMPERATURE, trained

from negplug import ContrastiveBatch, ContrastiveLoss, make_sampler
from negplug.contract.adapter import LossSite


def test_equal_memories_are_one():
    sampler = make_sampler(
        "hierarchical(uniform(num_negatives=3, source=queue(size=48)), "
        "hard(num_negatives=2, source=uniform(num_negatives=5, source=queue(size=48))), "
        "queue(size=48), queue(size=48, gather=False), queue(size=72), queue(), queue(), "
        "memory_bank(), memory_bank(momentum=0.9), memory_bank(num_negatives=4))"
    )
    tiers = list(sampler.tiers)
    first = tiers[0].source
    assert tiers[1].source.source is first
    assert tiers[2] is first
    assert tiers[3] is not first
    assert tiers[5] is tiers[6]
    assert tiers[9].source is tiers[7]
    # Four queues and two banks are left, read by a hierarchical, a hard and three uniform ones.
    assert len(list(sampler.all_samplers())) == 4 + 2 + 5


def test_a_shared_queue_takes_a_step_in_once_and_is_saved_once():
    queue = "queue(size=96)"
    loss_fn = trained(
        f"hierarchical(uniform(num_negatives=3, source={queue}), uniform(num_negatives=9), {queue})"
    )
    shared = loss_fn.sampler.tiers[2]
    assert shared._count == 3 * 2 * SIZE
    alone = trained("queue(size=96)").sampler
    assert torch.equal(shared._rows[: shared._count], alone._rows[: alone._count])
    state = loss_fn.state_dict()
    saved = [value["rows"] for key, value in state.items() if "rows" in (value or {})]
    assert len(saved) == 2
    assert saved[0] is saved[1]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    resumed = ContrastiveLoss(str(loss_fn.sampler), temperature=TEMPERATURE, seed=5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    z = naive.embeddings(2, SIZE)
    for _ in range(2):
        one, other = loss_fn(*z), resumed(*z)
        assert torch.equal(one, other)
        one.backward()
        other.backward()


def test_the_second_call_of_a_step_has_a_shared_queue_of_its_own():
    loss_fn = ContrastiveLoss(
        "hierarchical(uniform(num_negatives=3, source=queue(size=96)), queue(size=96))", seed=5
    )
    for step in range(2):
        both = [naive.embeddings(2, SIZE, seed=10 * step + call) for call in range(2)]
        batches = [ContrastiveBatch.from_views(tuple(z)) for z in both]
        sum(loss_fn.contrast(batch) for batch in batches).backward()
        loss_fn.end_step()
    first, second = loss_fn.sampler.tiers[1], loss_fn.further[0].sampler.tiers[1]
    assert loss_fn.further[0].sampler.tiers[0].source is second
    assert first._count == second._count == 2 * 2 * SIZE
    assert not torch.equal(first._rows[:48], second._rows[:48])


class Site(LossSite):
    """A host's loss with a queue of 32."""

    name, host, queue_size = "criterion", "a host", 32

    def treat(self, contrast):
        raise NotImplementedError

    def restore(self):
        raise NotImplementedError


def test_a_later_tier_is_checked_against_the_hosts_queue():
    text = "hierarchical(uniform(num_negatives=4, source=queue()), {})"
    later = "uniform(num_negatives={}, source=queue())"
    loss_fn = ContrastiveLoss(text.format(later.format(32)), site=Site())
    assert loss_fn.sampler.most == 4 + 32
    with pytest.raises(ValueError, match="num_negatives=33 is more than the 32 rows"):
        ContrastiveLoss(text.format(later.format(33)), site=Site())
