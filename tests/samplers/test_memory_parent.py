"""A memory whose state is loaded through a module that holds the loss."""

from __future__ import annotations

import copy

import pytest
import torch
from memories import STATE, embed, train, two_calls
from resumable import same_state
from torch import nn

from negplug import ContrastiveBatch, ContrastiveLoss


class Parent(nn.Module):
    """A model that holds its loss, between other parts."""

    def __init__(self, expression="queue(size=64)", seed=4):
        super().__init__()
        self.loss = ContrastiveLoss(expression, seed=seed)
        self.scale = nn.Parameter(torch.ones(()))

    def step(self, number):
        views = [self.scale.detach() * view for view in embed(3, number)]
        views = [view.requires_grad_() for view in views]
        return train(self.loss, views, torch.arange(3) + number)


PARENTS = ["queue(size=64)", "queue(size=64, num_negatives=5)", "memory_bank()"]


@pytest.mark.parametrize("expression", PARENTS)
def test_a_roll_back_through_the_parent_forgets_what_was_held_back(expression):
    parent, fresh = Parent(expression), Parent(expression, seed=9)
    parent.step(0), parent.step(1)
    saved = copy.deepcopy(parent.state_dict())
    parent.step(2)  # held back, and then never to be written
    parent.load_state_dict(saved)
    assert same_state(dict(parent.state_dict()), dict(saved))
    parent.step(2)
    parent.load_state_dict(saved)
    fresh.load_state_dict(saved)
    for number in (3, 4):
        assert torch.equal(parent.step(number), fresh.step(number))
    assert same_state(dict(parent.state_dict()), dict(fresh.state_dict()))


def test_a_roll_back_into_the_middle_of_a_step_goes_on_there():
    def call(parent, number):
        loss = parent.loss.contrast(ContrastiveBatch.from_views(tuple(embed(3, number))))
        loss.backward()
        return loss.detach()

    parent, fresh = Parent(PARENTS[1]), Parent(PARENTS[1], seed=9)
    parent.loss.begin_step()
    call(parent, 0), call(parent, 5)  # a step has two
    parent.loss.end_step()
    parent.loss.begin_step()
    first = parent.loss.contrast(ContrastiveBatch.from_views(tuple(embed(3, 1))))
    assert first.requires_grad  # whose backward pass, with that of a second call, is to come
    saved = copy.deepcopy(parent.state_dict())
    assert saved[f"loss.{STATE}"] == {
        "format": 2,
        "seed": 4,
        "step": 1,
        "call": 1,
        "further": 1,
    }
    call(parent, 2)
    parent.load_state_dict(saved)
    fresh.load_state_dict(saved)
    for number in (3, 4):
        assert torch.equal(call(parent, number), call(fresh, number))
    assert same_state(dict(parent.state_dict()), dict(fresh.state_dict()))


@pytest.mark.parametrize("between", [False, True])
def test_a_parents_state_that_does_not_fit_leaves_the_loss_as_it_was(between):
    other, parent, undisturbed = Parent("queue(size=48)", 9), Parent(), Parent()
    other.step(0)
    parent.step(0), undisturbed.step(0)
    before = undisturbed.state_dict()
    if between:
        before = parent.state_dict()  # nothing held back
    with pytest.raises(ValueError, match="was saved with size=48, this run has size=64"):
        parent.load_state_dict(other.state_dict())
    assert same_state(dict(parent.state_dict()), dict(before))
    assert torch.equal(parent.step(1), undisturbed.step(1))
    assert same_state(dict(parent.state_dict()), dict(undisturbed.state_dict()))


def test_a_parents_state_with_a_second_call_that_does_not_fit_is_refused_whole():
    other, parent = Parent(), Parent()
    other.loss = two_calls("queue(size=64)")
    state = other.state_dict()
    state[f"loss.further.0.sampler.{STATE}"]["settings"]["size"] = 48
    parent.step(0)
    before = parent.state_dict()
    with pytest.raises(ValueError, match="was saved with size=48"):
        parent.load_state_dict(state)
    assert same_state(dict(parent.state_dict()), dict(before))
