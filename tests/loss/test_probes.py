"""``torch.autograd.grad``: of a probe it is no step; of a loop that trains with it, it is one."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from torch import nn

from negplug import ContrastiveLoss

SAMPLERS = ["uniform(num_negatives=2)", "queue(size=64)", "memory_bank()", "isir()"]
SIZE, STEPS = 6, 5


class Loop:
    """A plain loop of a linear layer with an optimizer."""

    def __init__(self, sampler):
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 6).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1)
        self.loss_fn = ContrastiveLoss(sampler, seed=2)

    def rows(self, number):
        views = torch.randn(2, SIZE, 6, generator=torch.Generator().manual_seed(number)).to(DEVICE)
        return [self.layer(view) for view in views]

    def indexes(self, number):
        return (torch.arange(SIZE, device=DEVICE) + 5 * number) % 40

    def loss(self, number):
        return self.loss_fn(*self.rows(number), indexes=self.indexes(number))

    def asked(self, number):
        return torch.autograd.grad(self.loss(number), self.layer.parameters())

    def run(self, step):
        values = []
        for number in range(STEPS):
            values.append(step(self, number))
            self.optimizer.step()
        return values, self.layer.weight.detach(), self.loss_fn.state_dict()["_extra_state"]


def plain(loop, number):
    loop.optimizer.zero_grad()
    loss = loop.loss(number)
    loss.backward()
    return loss.item()


def probed_before(loop, number):
    loop.asked(100 + number)  # while the gradients of the step before are still there
    return plain(loop, number)


def probed_on_cleared_gradients(loop, number):
    loop.optimizer.zero_grad()
    loop.asked(100 + number)
    loop.asked(200 + number)
    return plain(loop, number)


def by_asking(loop, number):
    loss = loop.loss(number)
    gradients = torch.autograd.grad(loss, list(loop.layer.parameters()))
    for parameter, gradient in zip(loop.layer.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return loss.item()


@pytest.mark.parametrize("step", [probed_before, probed_on_cleared_gradients, by_asking])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_as_a_plain_loop(sampler, step):
    found, wanted = Loop(sampler).run(step), Loop(sampler).run(plain)
    assert found[0] == pytest.approx(wanted[0], abs=1e-6)
    torch.testing.assert_close(found[1], wanted[1])
    assert found[2] == wanted[2]


def test_gradients_that_are_asked_for_and_added_up_train():
    def added_up(loop, number):
        parts = zip(loop.asked(2 * number), loop.asked(2 * number + 1), strict=True)
        for parameter, (one, other) in zip(loop.layer.parameters(), parts, strict=True):
            parameter.grad = one + other

    loop = Loop("queue(size=128)")
    loop.run(added_up)
    assert loop.loss_fn.sampler.count == 2 * STEPS * 2 * SIZE


def attacked(gradient_of, clear_late):
    """A loop that moves its images towards a larger loss before it trains on them."""

    def step(loop, number):
        views = torch.randn(2, SIZE, 6, generator=torch.Generator().manual_seed(number)).to(DEVICE)
        indexes = loop.indexes(number)
        moved = views[0]
        for _ in range(4):
            moved = moved.detach().requires_grad_()
            rows = loop.layer(moved), loop.layer(views[1])
            gradient = gradient_of(loop.loss_fn(*rows, indexes=indexes), moved)
            moved = moved + 0.0 * gradient.sign()
            if not clear_late:
                loop.optimizer.zero_grad()
        rows = loop.layer(moved.detach()), loop.layer(views[1])
        loss = loop.loss_fn(*rows, indexes=indexes)
        loop.optimizer.zero_grad()
        loss.backward()
        return loss.item()

    return step


def by_grad(loss, image):
    return torch.autograd.grad(loss, image)[0]


def by_inputs(loss, image):
    loss.backward(inputs=[image])
    return image.grad


def by_backward(loss, image):
    loss.backward()
    return image.grad


@pytest.mark.parametrize(
    ("gradient_of", "clear_late"),
    [(by_grad, True), (by_inputs, True), (by_inputs, False), (by_backward, False)],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_attack_on_the_images_is_no_step(sampler, gradient_of, clear_late, caplog):
    found = Loop(sampler).run(attacked(gradient_of, clear_late))
    wanted = Loop(sampler).run(plain)
    assert found[0] == pytest.approx(wanted[0], abs=1e-6)
    torch.testing.assert_close(found[1], wanted[1])
    assert found[2] == wanted[2]
    assert gradient_of is by_backward or not caplog.messages


@pytest.mark.parametrize("gradient_of", [by_grad, by_inputs])
def test_attacks_between_micro_batches_are_none_of_them(gradient_of):
    def added_up(loop, number):
        loop.optimizer.zero_grad()
        for part in (2 * number, 2 * number + 1):
            image = torch.randn(SIZE, 6, device=DEVICE, requires_grad=True)
            rows = loop.layer(image), loop.rows(part)[1]
            gradient_of(loop.loss_fn(*rows, indexes=loop.indexes(part)), image)
            loop.loss(part).backward()

    loop = Loop("queue(size=128)")
    loop.run(added_up)
    assert loop.loss_fn.sampler.count == 2 * STEPS * 2 * SIZE
