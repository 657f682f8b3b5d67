"""Losses that a recipe keeps without a backward pass, beside the several calls of its steps."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE
from torch import nn

from negplug import ContrastiveBatch, ContrastiveLoss, inject

SAMPLERS = ["uniform(num_negatives=2)", "queue(size=64)", "memory_bank()"]
STEPS = 5


class Loop:
    """Steps whose loss is called for each direction, at two places."""

    def __init__(self, sampler):
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 16).double().to(DEVICE)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1)
        self.loss_fn = ContrastiveLoss(sampler, seed=2)
        self.kept = []

    def one_way(self, a, b, indexes):
        return self.loss_fn.contrast(ContrastiveBatch.from_views((a, b), indexes))

    def loss(self, number, fails=False):
        a, b = (self.layer(z) for z in naive.embeddings(2, 8, seed=number))
        indexes = (torch.arange(8, device=DEVICE) + 3 * number) % 20
        there = self.one_way(a, b, indexes)
        if fails:
            self.kept.append(there)
            raise FloatingPointError("a guard of the recipe")
        return there + self.one_way(b, a, indexes)

    def run(self, disturb):
        values = []
        for number in range(STEPS):
            if number == 2:
                disturb(self)
            self.optimizer.zero_grad()
            loss = self.loss(number)
            loss.backward()
            self.optimizer.step()
            values.append(loss.item())
        self.loss_fn.end_step()
        return values, self.loss_fn.state_dict()


def nothing(loop):
    """An undisturbed run."""


def one_way_alone(loop):
    a, b = (loop.layer(z) for z in naive.embeddings(2, 8, seed=90))
    loop.kept.append(loop.one_way(a, b, torch.arange(8, device=DEVICE)))


def three_times_one_way(loop):
    for _ in range(3):
        one_way_alone(loop)


def a_step_that_ends_halfway(loop):
    with pytest.raises(FloatingPointError):
        loop.loss(91, fails=True)


DISTURBED = [one_way_alone, three_times_one_way, a_step_that_ends_halfway]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("disturb", DISTURBED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_odd_number_of_them_shifts_nothing(sampler, disturb):
    loop = Loop(sampler)
    values, state = loop.run(disturb)
    assert loop.kept
    wanted, undisturbed = Loop(sampler).run(nothing)
    assert values == wanted
    assert state.keys() == undisturbed.keys()
    for name, value in undisturbed.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(state[name], value), name


def test_of_a_hosts_loss_too():
    criteria = pytest.importorskip("lightly.loss")

    def run(keeps):
        torch.manual_seed(0)
        layer, kept, values = nn.Linear(16, 16).double().to(DEVICE), [], []
        criterion = criteria.NTXentLoss(0.2)
        with inject(criterion, "hierarchical(in_batch(), queue(size=32))"):
            for number in range(STEPS):
                a, b = (layer(z) for z in naive.embeddings(2, 4, seed=number))
                if keeps and number == 3:
                    kept.append(criterion(a, b.detach()))
                loss = criterion(a, b.detach()) + criterion(b, a.detach())
                loss.backward()
                values.append(loss.item())
        return values

    assert run(True) == run(False)


class Directions(nn.Module):
    """A loss of two places, each with a queue of its own."""

    def __init__(self):
        super().__init__()
        self.loss_fn = ContrastiveLoss("queue(size=64)", seed=2)

    def there(self, a, b):
        return self.loss_fn.contrast(ContrastiveBatch.from_pairs(a, b))

    def back(self, a, b):
        return self.loss_fn.contrast(ContrastiveBatch.from_pairs(b, a))

    def step(self, order, number):
        a, b = (z.detach() for z in naive.embeddings(2, 8, seed=number))
        a, b = a.requires_grad_(), b.requires_grad_()
        losses = {name: getattr(self, name)(a, b) for name in order}
        sum(losses.values()).backward()
        self.loss_fn.end_step()
        return losses


@pytest.mark.filterwarnings("ignore")
def test_a_place_keeps_its_queue_whatever_the_order_of_the_calls():
    usual, swapped = Directions(), Directions()
    for number in range(6):
        order = ("there", "back") if number != 3 else ("back", "there")
        wanted, found = usual.step(("there", "back"), number), swapped.step(order, number)
        for name, loss in found.items():
            assert torch.equal(loss, wanted[name]), f"{name} of step {number}"


@pytest.mark.parametrize(
    ("steps", "mixed"),
    [
        (["AB", "AAB"], "A"),
        (["AAB", "AB"], "B"),
        (["AB", "AB", "AA"], "A"),
        (["AB", "A", "BA", "B", "AB"], None),
        (["AB", "AB"], None),
        (["AAB", "AAB"], None),
        (["AA", "A", "AAA", "AA"], None),
        (["AB", "CD", "AB"], None),  # two loops, one after the other
    ],
)
@pytest.mark.parametrize("sampler", ["queue(size=64)", "uniform(num_negatives=2)"])
@pytest.mark.parametrize("shared", [False, True])
def test_steps_that_call_a_loss_at_its_places_unequally_often(sampler, steps, mixed, shared):
    loss_fn, batch = ContrastiveLoss(sampler), ContrastiveBatch.from_views

    def call(place):
        views = [z.detach().requires_grad_() for z in naive.embeddings(2, 8)]
        if place == "A":
            return loss_fn(*views) if shared else loss_fn.contrast(batch(views))
        if place == "B":
            return loss_fn(*views) if shared else loss_fn.contrast(batch(views))
        if place == "C":
            return loss_fn(*views) if shared else loss_fn.contrast(batch(views))
        return loss_fn(*views) if shared else loss_fn.contrast(batch(views))

    def train():
        for places in steps:
            sum(call(place) for place in places).backward()
            loss_fn.end_step()

    if mixed is None or "queue" not in sampler or shared:
        train()
    else:
        with pytest.raises(RuntimeError, match=r"at test_kept_losses\.py:\d+ more or less often"):
            train()
