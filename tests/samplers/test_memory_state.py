"""The saved state of a memory: loaded whole or not at all."""

from __future__ import annotations

import copy

import pytest
import torch
from memories import STATE, TAU, embed, train, trained, two_calls
from resumable import same_state

from negplug import ContrastiveBatch, ContrastiveLoss, make_objective
from negplug.contract.adapter import LossSite
from negplug.hosts.injection import Injection
from negplug.hosts.treated_loss import TreatedLoss
from negplug.samplers.queue import Queue


def with_setting(name, value):
    def edit(state):
        for entry in state.values():
            if "settings" in entry:
                entry["settings"][name] = value

    return edit


def unchanged(state):
    return state


BAD_LOADS = [
    ("queue(size=16)", unchanged, "queue(size=24)", "was saved with size=16, this run has size=24"),
    ("queue(size=16)", with_setting("world_size", 0), "queue(size=16)", "saved with world_size=0"),
    ("queue(size=16, gather=False)", unchanged, "queue(size=16)", "saved with gather=False"),
    (
        "queue(size=16, num_negatives=2)",
        unchanged,
        "queue(size=24, num_negatives=2)",
        "was saved with size=16, this run has size=24",
    ),
    (
        "memory_bank(momentum=0.5)",
        unchanged,
        "memory_bank(momentum=0.9)",
        "was saved with momentum=0.5, this run has momentum=0.9",
    ),
    ("memory_bank(size=16)", unchanged, "memory_bank(size=24)", "saved with size=16"),
    ("memory_bank()", with_setting("world_size", 0), "memory_bank()", "saved with world_size=0"),
    ("memory_bank(size=16)", unchanged, "queue(size=16)", "saved state is another sampler's"),
    ("queue(size=16)", unchanged, "memory_bank(size=16)", "saved state is another sampler's"),
]


@pytest.mark.parametrize(("saved", "edit", "resumed", "message"), BAD_LOADS)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_state_that_does_not_fit_is_refused_whole(saved, edit, resumed, message, steps):
    state = copy.deepcopy(trained(saved).state_dict())
    edit(state)
    loss_fn = trained(resumed, steps)
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match=message):
        loss_fn.load_state_dict(state)
    assert same_state(loss_fn.state_dict(), before)
    train(loss_fn, embed(3, 6), torch.arange(3))  # and training goes on, counters included
    undisturbed = trained(resumed, steps)
    train(undisturbed, embed(3, 6), torch.arange(3))
    assert same_state(loss_fn.state_dict(), undisturbed.state_dict())


def test_a_second_calls_memory_that_does_not_fit_is_refused_whole():
    state = two_calls("queue(size=16)").state_dict()
    state[f"further.0.sampler.{STATE}"]["settings"]["size"] = 20
    loss_fn = trained("queue(size=16)", 1)  # of one call a step so far
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match="was saved with size=20"):
        loss_fn.load_state_dict(state)
    assert same_state(loss_fn.state_dict(), before)


class Site(LossSite):
    """A loss of no host, so that one injection has two everywhere."""

    host = "nowhere"

    def __init__(self, name):
        self.name = name

    def treat(self, contrast):
        self.contrast = contrast

    def restore(self):
        del self.contrast


def injection(size, steps):
    sites = [Site("global"), Site("local")]
    losses = [TreatedLoss(site, Queue(size), None, None) for site in sites]
    handle = Injection(sites, losses)
    for step in range(steps):
        for number, site in enumerate(sites):
            batch = ContrastiveBatch.from_views(tuple(embed(3, 10 * step + number)))
            loss = site.contrast(batch, objective=make_objective("infonce()"), temperature=TAU)
            loss.backward()
        handle.end_step()
    return handle


def test_an_injections_state_is_loaded_whole_or_not_at_all():
    state = injection(16, 3).state_dict()
    handle = injection(16, 1)
    before = handle.state_dict()
    bad = copy.deepcopy(state)
    bad["local"][f"sampler.{STATE}"]["settings"]["size"] = 20  # the first site's fits
    with pytest.raises(ValueError, match="was saved with size=20"):
        handle.load_state_dict(bad)
    assert same_state(handle.state_dict(), before)
    with pytest.raises(ValueError, match="negative state is of"):
        handle.load_state_dict({"global": state["global"]})
    assert same_state(handle.state_dict(), before)
    handle.load_state_dict(state)
    assert same_state(handle.state_dict(), state)


def test_a_state_can_be_loaded_before_the_first_step():
    for expression in ("queue(size=16)", "memory_bank(size=16)", "memory_bank()"):
        empty = ContrastiveLoss(expression, seed=4)
        resumed = ContrastiveLoss(expression, seed=9)
        resumed.load_state_dict(empty.state_dict())
        for loss_fn in (empty, resumed):
            for step in range(3):
                train(loss_fn, embed(3, step), torch.arange(3) + step)
        assert same_state(resumed.state_dict(), empty.state_dict())


@pytest.mark.parametrize(("steps", "place"), [(0, 3), (1, 0), (1, 9), (3, 16)])
def test_a_next_place_that_does_not_follow_the_last_one_is_refused(steps, place):
    state = copy.deepcopy(trained("queue(size=16)", steps).state_dict())
    state[f"sampler.{STATE}"]["values"]["next"] = place
    with pytest.raises(ValueError, match=f"its next place is {place}, which do not fit size=16"):
        ContrastiveLoss("queue(size=16)").load_state_dict(state)


def test_a_damaged_state_is_refused_whole():
    state = copy.deepcopy(trained("queue(size=16)").state_dict())
    values = state[f"sampler.{STATE}"]["values"]
    values["names"] = values["names"][:, :-1]
    loss_fn = trained("queue(size=16)", 1)
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match="do not fit together; the file is damaged"):
        loss_fn.load_state_dict(state)
    assert same_state(loss_fn.state_dict(), before)
