"""What is a step: a call that no backward pass reaches shifts nothing, a closure repeats one."""

from __future__ import annotations

import contextlib
import copy

import naive
import pytest
import torch
from device import DEVICE
from settling import settled
from torch import nn

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.loss import optimizers

STEPS, SIZE = 5, 8
SAMPLERS = [
    "uniform(num_negatives=3)",
    "queue(size=40)",
    "hierarchical(uniform(num_negatives=2), queue(size=40))",
    "isir()",
]


def batch_of(number, scale=1.0):
    indexes = (torch.arange(SIZE) * 3 + number) % 20
    z = [scale * v.detach() for v in naive.embeddings(2, SIZE, 6, seed=number)]
    return [v.requires_grad_() for v in z], indexes.to(DEVICE)


def call(loss_fn, number, calls=1):
    """The loss of a step of one or several calls."""
    total = 0.0
    for more in range(calls):
        views, indexes = batch_of(number + 50 * more)
        total = total + loss_fn.contrast(ContrastiveBatch.from_views(tuple(views), indexes))
    return total


def train(sampler, calls=1, disturb=lambda loss_fn, step: None, own=call):
    """The losses of a plain loop, ``disturb``ed ahead of each step, and its end."""
    loss_fn, found = ContrastiveLoss(sampler, seed=1), []
    for step in range(STEPS):
        kept = disturb(loss_fn, step)
        loss = own(loss_fn, step, calls)
        loss.backward()
        found.append(loss.item())
        del kept
    return found, loss_fn.state_dict()


def validation(loss_fn, step):
    """Without ``no_grad()``; nothing is kept."""
    for number in range(3):
        call(loss_fn, 100 + number)


def validation_that_keeps_its_losses(loss_fn, step):
    return [call(loss_fn, 100 + number) for number in range(3)]


def skipped(loss_fn, step):
    """A batch whose loss is looked at, and which is then left out."""
    return call(loss_fn, 200 + step)


def without_grad(loss_fn, step):
    with torch.no_grad():
        return call(loss_fn, 100)


def failing(loss_fn, step):
    views, indexes = batch_of(0)
    with pytest.raises(ValueError, match="NaN") as said:
        settled(loss_fn, views[0], views[1] * torch.nan, indexes=indexes)
    return said


def assert_same(found, wanted):
    assert found[0] == pytest.approx(wanted[0], abs=1e-12)
    one, two = (flat(state) for _, state in (found, wanted))
    assert len(one) == len(two)
    for ours, theirs in zip(one, two, strict=True):
        if isinstance(ours, torch.Tensor):
            torch.testing.assert_close(ours, theirs)
        else:
            assert ours == theirs


def flat(state):
    values = state.values() if isinstance(state, dict) else [state]
    return [v for value in values for v in (flat(value) if value is not state else [value])]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "disturb",
    [validation, validation_that_keeps_its_losses, skipped, without_grad, failing],
    ids=lambda disturb: disturb.__name__,
)
def test_calls_without_a_backward_pass_shift_nothing(sampler, disturb):
    assert_same(train(sampler, disturb=disturb), train(sampler))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_skipped_step_of_two_calls_shifts_nothing(sampler):
    def two_skipped(loss_fn, step):
        return call(loss_fn, 200 + step, calls=2)

    assert_same(train(sampler, 2, two_skipped), train(sampler, 2))


def test_one_kept_loss_mixes_up_no_memories_of_two_calls():
    def kept(loss_fn, step):
        return call(loss_fn, 300) if step == STEPS - 1 else None

    found, wanted = (train("queue(size=40)", 2, disturb) for disturb in (kept, without_grad))
    for ours, theirs in zip(*(flat(state) for _, state in (found, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_probe_that_stands_ahead_of_every_loss_is_no_call():
    def probed(loss_fn, step, calls):
        probe = call(loss_fn, 300)
        loss = call(loss_fn, step)
        assert probe.requires_grad
        return loss

    found, wanted = (train("queue(size=40)", own=own) for own in (probed, call))
    assert_same(found, wanted)


def test_a_step_may_come_to_have_more_calls():
    loss_fn = ContrastiveLoss("queue(size=40)")
    for number in range(4):
        call(loss_fn, number, calls=1 + (number > 1)).backward()
    loss_fn.state_dict()
    first, second = loss_fn.sampler, loss_fn.further[0].sampler
    assert (first.count, second.count) == (40, 32)
    assert len(loss_fn.further) == 1


@pytest.mark.parametrize("module", [False, True])
def test_a_gradient_taken_between_two_losses_ends_nothing(module):
    def two(loss_fn, number):
        for more in (0, 50):
            views, indexes = batch_of(number + more)
            if module:
                yield loss_fn(*views, indexes=indexes), views
            else:
                yield loss_fn.contrast(ContrastiveBatch.from_views(tuple(views), indexes)), views

    def steps(balanced):
        loss_fn, found = ContrastiveLoss("hierarchical(uniform(2), queue(size=64))", seed=2), []
        for number in range(4):
            losses = two(loss_fn, number)
            first, views = next(losses)
            if balanced:
                (gradient,) = torch.autograd.grad(first, views[0], retain_graph=True)
                assert gradient.isfinite().all()
            total = first + next(losses)[0]
            total.backward()
            found.append(total.item())
        return found, loss_fn.state_dict()

    assert_same(steps(True), steps(False))


def test_a_pass_that_keeps_its_graph_is_a_step_once_an_optimizer_has_stepped():
    loss_fn, layer = ContrastiveLoss("queue(size=40)"), nn.Linear(6, 6).to(DEVICE)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    found = []
    for number in range(3):
        views, _ = batch_of(number)
        loss = loss_fn(*(layer(v.float().detach()) for v in views))
        loss.backward(retain_graph=True)
        optimizer.step()
        found.append(loss.item())
    assert found[0] == 0 < min(found[1:])
    assert loss_fn.state_dict()["sampler._extra_state"]["values"]["count"] == 40


def test_a_step_that_is_held_open_ends_where_it_is_told():
    loss_fn = ContrastiveLoss("queue(size=64)")
    for number in range(2):
        loss_fn.begin_step()
        values = []
        for more in range(2):  # a backward pass each, as a manual optimisation has them
            loss = call(loss_fn, number + 50 * more)
            loss.backward()
            values.append(loss.item())
        assert (min(values) > 0) == (number > 0)
        loss_fn.end_step()
    assert [loss_fn.sampler.count, loss_fn.further[0].sampler.count] == [32, 32]
    loss_fn.begin_step()
    call(loss_fn, 9)
    loss_fn.end_step()  # without a backward pass
    assert loss_fn.sampler.count == 32


class Sharp(torch.optim.Optimizer):
    """Sharpness-aware minimisation: a closure's gradient where an ascent has led to."""

    def __init__(self, params, passes):
        super().__init__(params, {})
        self.passes = passes

    @torch.no_grad()
    def step(self, closure):
        for _ in range(self.passes):
            with torch.enable_grad():
                loss = closure()
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(0.01 * p.grad)
        return loss


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=0.05, max_iter=4)


def sam(parameters):
    return Sharp(parameters, 2)


def sam_after_a_pass(parameters):
    return Sharp(parameters, 1)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("make", [lbfgs, sam, sam_after_a_pass], ids=lambda make: make.__name__)
def test_a_closure_repeats_the_calls_of_its_step(make, checkpointed):
    layer = nn.Linear(6, 6).to(DEVICE)
    loss_fn = ContrastiveLoss("hierarchical(uniform(num_negatives=5), queue(size=256))", seed=3)
    optimizer, drawn = make(layer.parameters()), []
    loss_fn.objective.register_forward_pre_hook(
        lambda _, given: drawn[-1].append(given[0].context.draws)
    )
    for step in range(3):
        drawn.append([])
        views, indexes = batch_of(step)
        inputs = torch.stack([v.detach().float() for v in views])

        def both(inputs, indexes=indexes):
            rows = [layer(x) for x in inputs]
            batches = [rows, rows[::-1]]
            made = [ContrastiveBatch.from_views(tuple(b), indexes) for b in batches]
            return sum(loss_fn.contrast(batch) for batch in made)

        def closure(inputs=inputs, both=both):
            optimizer.zero_grad()
            if checkpointed:
                loss = torch.utils.checkpoint.checkpoint(both, inputs, use_reentrant=False)
            else:
                loss = both(inputs)
            loss.backward()
            return loss

        if make is sam_after_a_pass:
            closure()
        optimizer.step(closure)
    loss_fn.end_step()
    for step, calls in enumerate(drawn):
        assert len(calls) >= 4
        # Two draws a step, however often they are computed; in the first one they are alike.
        wanted = {(step, 0), (step, min(step, 1))}
        assert {(draws.step, draws.call) for draws in calls} == wanted
    counts = [part.tiers[1].count for part in (loss_fn.sampler, loss_fn.further[0].sampler)]
    assert counts == [48, 48]


def test_an_optimizer_step_that_fails_is_not_taken_for_a_running_one():
    layer = nn.Linear(2, 2)
    before = optimizers.place()

    def closure():
        assert optimizers.place().inside
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        Sharp(layer.parameters(), 1).step(closure)
    assert optimizers.place() == (before.begun + 1, False)


def test_a_copy_does_not_hear_of_the_originals_backward_passes():
    loss_fn = ContrastiveLoss("queue(size=40)")
    loss = call(loss_fn, 0)
    with contextlib.ExitStack() as stack:
        stack.callback(loss.backward)
        twin = copy.deepcopy(loss_fn)
    twin.end_step(), loss_fn.end_step()
    assert (twin.sampler.count, loss_fn.sampler.count) == (0, 16)
