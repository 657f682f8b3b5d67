"""Gradients that a loop keeps aside count, as in accumulation; those of guards do not."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from torch import nn

from negplug import ContrastiveLoss
from negplug.loss import put_aside

SIZE, MICRO = 4, 3


class Loop:
    """A plain loop of a linear layer, whose loss remembers its batches in a queue."""

    def __init__(self, lr=0.1):
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 6).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=lr)
        self.loss_fn, self.drawn = ContrastiveLoss("queue(size=256)", seed=2), []
        self.loss_fn.objective.register_forward_pre_hook(
            lambda _, given: self.drawn.append(given[0].context.draws.step)
        )

    @property
    def parameters(self):
        return list(self.layer.parameters())

    def embeddings(self, number):
        draw = torch.Generator().manual_seed(number)
        views = torch.randn(2, SIZE, 6, generator=draw).to(DEVICE)
        return list(map(self.layer, views))

    def loss(self, number):
        return self.loss_fn(*self.embeddings(number))

    def counted(self):
        self.loss_fn.end_step()
        return self.loss_fn.sampler.count // (2 * SIZE)


def flat(state):
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


def accumulated(loop, number):
    loop.loss(number).backward()


def cloned(loop, number):
    loop.loss(number).backward()
    kept = [p.grad.clone() for p in loop.parameters]
    loop.optimizer.zero_grad()
    return kept


def moved(loop, number):
    loop.loss(number).backward()
    kept = [p.grad for p in loop.parameters]
    for parameter in loop.parameters:
        parameter.grad = None
    return kept


def returned(loop, number):
    return torch.autograd.grad(loop.loss(number), loop.parameters)


def train(loop, passed, rounds=3):
    for number in range(rounds):
        kept = [passed(loop, number * MICRO + micro) for micro in range(MICRO)]
        if kept[0] is not None:
            for parameter, *grads in zip(loop.parameters, *kept, strict=True):
                parameter.grad = sum(grads)
        loop.optimizer.step()
        loop.optimizer.zero_grad()


@pytest.mark.parametrize("passed", [cloned, moved, returned])
def test_they_count_as_accumulated_ones_do(passed):
    found, wanted = Loop(lr=0.0), Loop(lr=0.0)
    train(found, passed), train(wanted, accumulated)
    assert found.counted() == wanted.counted() == 3 * MICRO
    # Known from the end of the first round on, what it had forgotten is taken in, in order.
    assert flat(found.loss_fn.state_dict()) == flat(wanted.loss_fn.state_dict())
    assert found.drawn[MICRO:] == wanted.drawn[MICRO:] == list(range(MICRO, 3 * MICRO))
    assert not any(p._post_accumulate_grad_hooks for p in found.parameters)


def sharp(loop, number):
    """SAM's two passes by hand."""
    before = [p.detach().clone() for p in loop.parameters]
    loop.loss(number).backward()
    with torch.no_grad():
        for parameter in loop.parameters:
            parameter.add_(0.05 * parameter.grad)
    loop.optimizer.zero_grad()
    loop.loss(number).backward()
    for parameter, was in zip(loop.parameters, before, strict=True):
        parameter.data = was
    loop.optimizer.step()
    loop.optimizer.zero_grad()


def guarded(loop, number):
    loop.loss(number).backward()
    if number % 3 != 1:
        loop.optimizer.step()
    loop.optimizer.zero_grad()


def added_in_place(loop, number):
    kept = cloned(loop, number)
    loop.loss(number).backward()
    for parameter, grad in zip(loop.parameters, kept, strict=True):
        parameter.grad += grad
    loop.optimizer.step()
    loop.optimizer.zero_grad()


def recalled(loop, number):
    if number % MICRO == 0:
        train(loop, moved, rounds=1)


@pytest.mark.parametrize(
    ("step", "forgotten"), [(sharp, 0), (recalled, 0), (guarded, 1), (added_in_place, 1)]
)
def test_it_is_said_once_where_a_step_is_forgotten(step, forgotten, caplog, monkeypatch):
    monkeypatch.setattr(put_aside, "_told", False)
    loop = Loop()
    for number in range(6):
        step(loop, number)
    assert sum("were dropped before" in text for text in caplog.messages) == forgotten


def in_two_passes(loop, number):
    z = loop.embeddings(number)
    torch.autograd.backward(z, torch.autograd.grad(loop.loss_fn(*z), z, retain_graph=True))


def in_two_passes_of_its_own(loop, number):
    z = loop.embeddings(number)
    loop.loss_fn(*z).backward(inputs=z)
    torch.autograd.backward(loop.embeddings(number), [each.grad for each in z])


def computed_again(loop, number):
    z = loop.embeddings(number)
    grads = torch.autograd.grad(loop.loss_fn(*z), z)
    sum((a * b).sum() for a, b in zip(loop.embeddings(number), grads, strict=True)).backward()


def cut_off(loop, number):
    z = loop.embeddings(number)
    leaves = [each.detach().requires_grad_() for each in z]
    loop.loss_fn(*leaves).backward()
    torch.autograd.backward(z, [leaf.grad for leaf in leaves])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "passed", [in_two_passes, in_two_passes_of_its_own, computed_again, cut_off]
)
def test_gradients_of_embeddings_that_a_second_pass_carries_on_count(passed):
    """A gradient cache by hand, of each micro-batch."""
    found, wanted = Loop(), Loop()
    train(found, passed), train(wanted, accumulated)
    assert flat(found.loss_fn.state_dict()) == flat(wanted.loss_fn.state_dict())
    assert found.drawn == wanted.drawn == list(range(3 * MICRO))
    torch.testing.assert_close(found.layer.weight, wanted.layer.weight)


def test_an_attack_on_embeddings_is_none_of_the_micro_batches():
    loop, twin = Loop(), Loop()
    for number in range(2 * MICRO):
        for each in (loop, twin):
            z = each.embeddings(number)
            if each is loop:
                torch.autograd.grad(each.loss_fn(*z), z[:1], retain_graph=True)
            each.loss_fn(*z).backward()
            if number % MICRO == MICRO - 1:
                each.optimizer.step()
                each.optimizer.zero_grad()
    assert loop.drawn[1::2] == twin.drawn
    assert flat(loop.loss_fn.state_dict()) == flat(twin.loss_fn.state_dict())


def test_a_guard_that_clips_what_it_lets_through_throws_away(caplog):
    loop = Loop()
    for number in range(8):
        loop.loss(number).backward()
        if number not in (0, 3, 4):
            nn.utils.clip_grad_norm_(loop.parameters, 0.1)
            loop.optimizer.step()
        loop.optimizer.zero_grad()
    assert loop.counted() == 5
    assert loop.drawn == [0, 0, 1, 2, 2, 2, 3, 4]


@pytest.mark.parametrize("skipped", [1, 2])
def test_a_guard_may_skip_the_first_steps(skipped):
    loop, twin = Loop(), Loop()
    for number in range(5):
        for each in (loop, twin):
            if each is loop or number >= skipped:
                each.optimizer.zero_grad()
                each.loss(number).backward()
                if number >= skipped:
                    each.optimizer.step()
    assert loop.drawn[skipped:] == twin.drawn
    assert flat(loop.loss_fn.state_dict()) == flat(twin.loss_fn.state_dict())


def test_an_optimizer_that_another_one_replaces_is_no_guard():
    """What holds the parameters never steps; they are updated by hand."""
    loop = Loop()
    for number in range(6):
        loop.loss(number).backward()
        with torch.no_grad():
            for parameter in loop.parameters:
                parameter.data -= 0.1 * parameter.grad
                parameter.grad = None
    assert loop.counted() == 6


def test_steps_that_a_scaler_skips_are_not_remembered():
    loop, scaler = Loop(), torch.amp.GradScaler(DEVICE.type, init_scale=4.0)
    for number in range(4):
        scaler.scale(loop.loss(number) * (torch.inf if number == 1 else 1.0)).backward()
        scaler.step(loop.optimizer)
        scaler.update()
        loop.optimizer.zero_grad()
    train(loop, cloned, rounds=1)
    assert loop.counted() == 3 + MICRO
