"""Backward passes without a step of an optimizer: a scaler skips it, or a guard forgoes it."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from torch import nn

from negplug import ContrastiveBatch, ContrastiveLoss

STEPS, SIZE = 7, 4
SAMPLERS = ["hierarchical(uniform(num_negatives=2), queue(size=64))", "emc2(size=32)"]


class Training:
    """A plain loop of a linear layer; some of its steps are spoilt."""

    def __init__(self, sampler, fused=False, calls=1):
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 6).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1, fused=fused)
        self.scaler = torch.amp.GradScaler(DEVICE.type, init_scale=4.0)
        self.loss_fn, self.calls, self.drawn = ContrastiveLoss(sampler, seed=2), calls, []
        self.loss_fn.objective.register_forward_pre_hook(self.note)

    def note(self, _, given):
        self.drawn.append(given[0].context.draws)

    def loss(self, number, factor=1.0):
        generator = torch.Generator().manual_seed(number)
        total = 0.0
        for call in range(self.calls):
            views = torch.randn(2, SIZE, 6, generator=generator).to(DEVICE)
            indexes = (torch.arange(SIZE, device=DEVICE) * 3 + number + call) % 32
            rows = tuple(self.layer(factor * v) for v in views)
            batch = ContrastiveBatch.from_views(rows, indexes)
            total = total + self.loss_fn.contrast(batch)
        return total

    def run(self, spoilt, step):
        kept = []
        for number in range(STEPS):
            before = len(self.drawn)
            step(self, number, number in spoilt)
            if number not in spoilt:
                kept += self.drawn[before:]
        return kept, self.loss_fn.state_dict(), self.layer.weight.detach()


def scaled(run, number, spoilt, zero_last=True):
    """A step under a GradScaler; in a spoilt one the gradients are infinite."""
    if not zero_last:
        run.optimizer.zero_grad()
    loss = run.loss(number)
    run.scaler.scale(loss * (torch.inf if spoilt else 1.0)).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if zero_last:
        run.optimizer.zero_grad()


def zeroed_ahead(run, number, spoilt):
    scaled(run, number, spoilt, zero_last=False)


def unscaled_first(run, number, spoilt):
    """With clipped gradients, as recipes have it."""
    run.scaler.scale(run.loss(number) * (torch.inf if spoilt else 1.0)).backward()
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.layer.parameters(), 1.0)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()


def guarded(run, number, spoilt):
    """A guard of the script's own, behind the backward pass."""
    run.optimizer.zero_grad()
    run.loss(number).backward()
    if spoilt:
        run.optimizer.zero_grad()
        return
    run.optimizer.step()


def stepping_without_gradients(run, number, spoilt):
    run.loss(number).backward()
    if spoilt:
        run.layer.zero_grad()
    run.optimizer.step()
    run.optimizer.zero_grad()


def without(step):
    """The same training without its spoilt steps."""
    return lambda run, number, spoilt: None if spoilt else step(run, number, False)


def assert_same(found, wanted):
    assert [(d.step, d.call) for d in found[0]] == [(d.step, d.call) for d in wanted[0]]
    assert flat(found[1]) == flat(wanted[1])
    assert torch.equal(found[2], wanted[2])


def flat(state):
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("step", "fused"),
    [(scaled, False), (scaled, True), (zeroed_ahead, False), (unscaled_first, False)],
)
def test_a_step_that_a_scaler_skips_is_none(step, fused, sampler):
    spoilt = {0, 3, 4}
    found = Training(sampler, fused).run(spoilt, step)
    assert_same(found, Training(sampler, fused).run(spoilt, without(step)))
    assert [draws.step for draws in found[0]] == [0, 1, 2, 3]


@pytest.mark.parametrize("step", [guarded, stepping_without_gradients])
def test_gradients_that_a_guard_throws_away_are_no_step(step):
    spoilt = {2, 5}
    found = Training(SAMPLERS[0]).run(spoilt, step)
    assert_same(found, Training(SAMPLERS[0]).run(spoilt, without(step)))


def test_each_call_of_a_skipped_step_is_forgotten():
    spoilt = {1, 2}
    found = Training(SAMPLERS[0], calls=2).run(spoilt, scaled)
    assert_same(found, Training(SAMPLERS[0], calls=2).run(spoilt, without(scaled)))
    assert found[1]["_extra_state"]["further"] == 1


def test_what_one_of_two_optimizers_steps_with_counts():
    run = Training("queue(size=64)")
    other = nn.Linear(6, 6).to(DEVICE)
    second = torch.optim.SGD(other.parameters(), lr=0.1)
    for number in range(3):
        loss = run.loss(number) + other(torch.ones(6, device=DEVICE)).sum()
        handle = other.weight.register_hook(lambda gradient: gradient * torch.inf)
        run.scaler.scale(loss).backward()
        handle.remove()
        run.scaler.step(second)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad(), second.zero_grad()
    run.loss_fn.end_step()
    assert run.loss_fn.sampler.count == 3 * 2 * SIZE


@pytest.mark.parametrize("scale", [False, True])
def test_accumulated_gradients_are_not_thrown_away(scale):
    run = Training("queue(size=64)")
    for number in range(6):
        run.scaler.scale(run.loss(number)).backward() if scale else run.loss(number).backward()
        if number % 3 == 2:
            run.scaler.step(run.optimizer) if scale else run.optimizer.step()
            run.scaler.update() if scale else None
            run.optimizer.zero_grad()
    run.loss_fn.end_step()
    assert run.loss_fn.sampler.count == 6 * 2 * SIZE
    assert [draws.step for draws in run.drawn] == list(range(6))


@pytest.mark.parametrize("closed", [False, True])
def test_a_model_that_no_optimizer_of_torch_steps_with(closed):
    run = Training("queue(size=64)")
    elsewhere = nn.Linear(2, 1)
    probe = torch.optim.SGD(elsewhere.parameters(), lr=0.1)
    for number in range(4):
        elsewhere(torch.ones(2)).sum().backward()
        probe.step()
        probe.zero_grad()
        run.loss(number).backward()
        with torch.no_grad():
            for parameter in run.layer.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        if closed:
            run.loss_fn.end_step()
    run.loss_fn.end_step()
    assert run.loss_fn.sampler.count == 4 * 2 * SIZE


def test_the_step_of_another_models_optimizer_does_not_count():
    def beside(run, number, spoilt):
        """As a discriminator has it."""
        scaled(run, number, spoilt)
        other(torch.ones(2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    other = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    found, wanted = (Training(SAMPLERS[0]).run({2, 3}, step) for step in (beside, scaled))
    assert_same(found, wanted)
    assert [draws.step for draws in found[0]] == list(range(STEPS - 2))


def test_a_pass_held_open_forgets_the_skipped_one_alone():
    """Two passes in a step, with a step of the optimizer each, as manual optimisation has them."""
    run = Training("queue(size=64)")
    run.loss_fn.begin_step()
    scaled(run, 0, spoilt=True)
    scaled(run, 1, spoilt=False)
    run.loss_fn.end_step()
    assert run.loss_fn.sampler.count == 0
    assert run.loss_fn.further[0].sampler.count == 2 * SIZE


def counted(loss_fn):
    loss_fn.end_step()
    return loss_fn.sampler.count // (2 * SIZE)


def passed(loss_fn, layer, optimizer, zero_first=False):
    """A step of a plain loop."""
    rows = torch.randn(2, SIZE, 6, generator=torch.Generator().manual_seed(0))
    if zero_first:
        optimizer.zero_grad()
    loss_fn(*(layer(view) for view in rows)).backward()
    optimizer.step()
    if not zero_first:
        optimizer.zero_grad()


@pytest.mark.parametrize("zero_first", [True, False])
def test_models_that_take_turns_with_one_loss(zero_first):
    loss_fn = ContrastiveLoss("queue(size=256)")
    layers = [nn.Linear(6, 6) for _ in range(2)]
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    for _ in range(5):
        for layer, optimizer in zip(layers, optimizers, strict=True):
            passed(loss_fn, layer, optimizer, zero_first)
    assert counted(loss_fn) == 10


def test_a_second_optimizer_of_the_same_parameters():
    loss_fn, layer = ContrastiveLoss("queue(size=256)"), nn.Linear(6, 6)
    first = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        passed(loss_fn, layer, first)
    second = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(3):
        passed(loss_fn, layer, second)
    assert counted(loss_fn) == 6


def test_an_optimizer_of_a_phase_that_is_over_has_stepped():
    loss_fn, layer = ContrastiveLoss("queue(size=256)"), nn.Linear(6, 6)
    whole = torch.optim.SGD(layer.parameters(), lr=0.1)

    def train(optimizer):
        loss = loss_fn(layer(torch.randn(SIZE, 6)), layer(torch.randn(SIZE, 6)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def warm_up():
        biases = torch.optim.SGD([layer.bias], lr=0.1)
        for _ in range(3):
            train(biases)

    warm_up()
    for _ in range(3):
        train(whole)
    assert counted(loss_fn) == 6


def test_a_probe_that_trains_for_long_between_two_steps():
    loss_fn, layer, probe = ContrastiveLoss("queue(size=256)"), nn.Linear(6, 6), nn.Linear(6, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    of_probe = torch.optim.SGD(probe.parameters(), lr=0.1)
    for _ in range(3):
        for _ in range(2):
            passed(loss_fn, layer, optimizer)
        for _ in range(40):
            probe(layer(torch.ones(6)).detach()).sum().backward()
            of_probe.step()
            of_probe.zero_grad()
    assert counted(loss_fn) == 6


def test_a_scaler_that_is_off_takes_what_is_no_optimizer():
    class Every:
        """Steps every other time, and is none of torch's."""

        def __init__(self, optimizer):
            self.optimizer, self.param_groups, self.asked = optimizer, optimizer.param_groups, 0

        def step(self):
            self.asked += 1
            if self.asked % 2 == 0:
                self.optimizer.step()

    layer = nn.Linear(2, 2)
    wrapper = Every(torch.optim.SGD(layer.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for _ in range(2):
        layer(torch.ones(2)).sum().backward()
        scaler.step(wrapper)
    assert wrapper.asked == 2


def cleared_late(run, number, spoilt):
    """As tutorials have it: gradients are cleared between forward and backward pass."""
    loss = run.loss(number)
    run.optimizer.zero_grad()
    loss.backward()
    if not spoilt:
        run.optimizer.step()


def zeroed_late(run, number, spoilt):
    loss = run.loss(number)
    run.optimizer.zero_grad(set_to_none=False)
    loss.backward()
    if not spoilt:
        run.optimizer.step()


def zeroed_at_once(run, number, spoilt):
    run.loss(number).backward()
    if not spoilt:
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=False)


def cached(run, number, spoilt):
    """As a gradient cache has it, whose loss depends on no parameter."""
    run.optimizer.zero_grad()
    views = torch.randn(2, SIZE, 6, generator=torch.Generator().manual_seed(number)).to(DEVICE)
    rows = [run.layer(view).detach().requires_grad_() for view in views]
    indexes = (torch.arange(SIZE, device=DEVICE) * 3 + number) % 32
    run.loss_fn(*rows, indexes=indexes).backward()
    for view, row in zip(views, rows, strict=True):
        run.layer(view).backward(row.grad)
    if spoilt:
        run.optimizer.zero_grad()
    else:
        run.optimizer.step()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("step", [cleared_late, zeroed_late, zeroed_at_once, cached])
def test_gradients_that_a_skipped_step_leaves_are_no_step(step, sampler):
    spoilt = {2, 4, 5}
    found = Training(sampler).run(spoilt, step)
    assert_same(found, Training(sampler).run(spoilt, without(step)))


def test_a_loop_that_accumulates_upon_an_empty_queue():
    run = Training("queue(size=64)")
    for number in range(6):
        run.loss(number).backward()
        if number % 2:
            run.optimizer.step()
            run.optimizer.zero_grad()
    assert [draws.step for draws in run.drawn] == list(range(6))


@pytest.mark.parametrize("alone", [1, 3])
def test_a_loop_that_begins_to_accumulate_after_some_steps(alone):
    run = Training("queue(size=256)")
    for number in range(alone + 6):
        run.loss(number).backward()
        if number < alone or (number - alone) % 2:
            run.optimizer.step()
            run.optimizer.zero_grad()
    assert counted(run.loss_fn) == alone + 6
    steps = [draws.step for draws in run.drawn]
    assert steps[: alone + 1] == list(range(alone + 1))
    assert steps[alone + 2 :] == list(range(alone + 2, alone + 6))  # the one between repeats draws


def test_a_step_that_is_saved_while_its_gradients_are_left():
    run = Training("queue(size=64)")
    for number in range(4):
        cleared_late(run, number, spoilt=number == 3)
    assert run.loss_fn.state_dict()["_extra_state"]["step"] == 3
    cleared_late(run, 4, spoilt=False)
    assert counted(run.loss_fn) == 4


def test_one_of_two_models_accumulates():
    loss_fn = ContrastiveLoss("queue(size=256)")
    layers = [nn.Linear(6, 6) for _ in range(2)]
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    for number in range(6):
        passed(loss_fn, layers[0], optimizers[0])
        rows = torch.randn(2, SIZE, 6, generator=torch.Generator().manual_seed(number))
        loss_fn(*map(layers[1], rows)).backward()
        if number % 2:
            optimizers[1].step()
            optimizers[1].zero_grad()
    assert counted(loss_fn) == 12
