"""Plain loops in micro-batches: what they compute is what they compute on the whole batch."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from splittable import COUNT, Loop, Net, batches
from torch import nn

from negplug import ContrastiveLoss, accumulated

SAMPLERS = [
    "in_batch()",
    "uniform(num_negatives=5)",
    "queue(size=40, num_negatives=5)",
    "memory_bank(size=24)",
    "hard(num_negatives=4, source=queue(size=40))",
    "filtered(source=memory_bank(size=24), similarity=0.9)",
    "stratified(num_negatives=6, by='labels')",
    "hierarchical(uniform(num_negatives=4), queue(size=40, num_negatives=5))",
    "synthetic(num_mixed=4, num_hardest=8, source=queue(size=40))",
    "gumbel_max(num_negatives=3, source=queue(size=40))",
    "emc2(size=24)",
    "emc2(size=24, out_of_batch='recompute', burn_in=0)",
]


def close(a, b, tolerance=2e-6):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_twenty_steps_are_those_on_the_whole_batch(sampler):
    whole, split = Loop(sampler, count=1), Loop(sampler)
    before = whole.parameters()
    close(split.train(), whole.train(), 1e-5)
    close(split.parameters(), whole.parameters())
    assert (whole.parameters() - before).norm() > 0.01
    states = split.loss_fn.state_dict(), whole.loss_fn.state_dict()
    for name, value in states[1].items():
        if isinstance(value, torch.Tensor):
            close(states[0][name], value)


def test_what_accumulated_gradients_would_be_is_another_step():
    whole, other = Loop("in_batch()", count=1), Loop("in_batch()", count=1)
    whole.train(1)
    ((x0, x1), _) = next(batches(1))
    for a, b in zip(x0.chunk(COUNT), x1.chunk(COUNT), strict=True):
        (other.loss_fn(other.model(a), other.model(b)) / COUNT).backward()
    other.optimizer.step()
    assert (whole.parameters() - other.parameters()).abs().max() > 1e-4


@pytest.mark.parametrize("rows", [5, 3, 1])
def test_a_ragged_or_short_batch(rows):
    whole, split = Loop(count=1), Loop()
    batch = next(batches(1, rows))
    for loop in (whole, split):
        loop.run(batch).backward()
        loop.optimizer.step()
    close(split.parameters(), whole.parameters())


def test_dropout_is_that_of_each_micro_batch_in_both_passes():
    """Against one graph over the micro-batches' embeddings, drawn one after the other."""

    def dropping():
        return Net(dropout=0.4)

    split, naive = Loop(model=dropping), Loop(count=1, model=dropping)
    for batch in batches(5):
        (x0, x1), known = batch
        torch.manual_seed(7)
        split.run(batch).backward()
        after = torch.rand(1)
        torch.manual_seed(7)
        embedded = [
            (naive.model(a), naive.model(b))
            for a, b in zip(x0.chunk(COUNT), x1.chunk(COUNT), strict=True)
        ]
        z0, z1 = (torch.cat(views) for views in zip(*embedded, strict=True))
        naive.loss_fn(z0, z1, **known).backward()
        assert torch.equal(torch.rand(1), after)  # the run goes on with the same numbers
        for loop in (split, naive):
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        close(split.parameters(), naive.parameters())


def test_every_global_generator_is_put_back():
    def step(loop, batch):
        noise = torch.rand(()) + random.random() + numpy.random.rand()
        (x0, x1), known = batch
        return loop.loss_fn(loop.model(x0 + noise), loop.model(x1), **known)

    loop = Loop(step=step)
    assert loop.train(3).isfinite().all()  # the first step compares both passes


def test_a_step_may_write_to_its_batch():
    """As recipes do that augment on the device."""

    def step(loop, batch):
        views, known = batch
        views[0] = views[0] + 0.1 * torch.rand(())
        views[1].mul_(0.5)
        return loop.loss_fn(*map(loop.model, views), **known)

    loops = Loop(count=1, step=step), Loop(step=step)
    for loop in loops:
        torch.manual_seed(5)
        batch = next(batches(1))
        batch[0][0].zero_()  # the same whatever is drawn
        loop.run(batch).backward()
    close(*(loop.model.layers[3].weight.grad for loop in loops), 0.2)
    assert loops[1].train(2).isfinite().all()


def test_autocast_has_the_gradient_of_the_whole_batch():
    """A weight cast without gradient may not be kept for the pass with one."""
    found = []
    for count in (1, COUNT):
        loop = Loop(count=count)
        batch = next(batches(1))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loop.run(batch)
        loss.backward()
        assert all(p.grad is not None for p in loop.model.parameters())
        found.append(torch.cat([p.grad.flatten() for p in loop.model.parameters()]))
    assert (found[0] - found[1]).norm() / found[0].norm() < 5e-3


def scaled(count, scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    loop = Loop("queue(size=40)", count=count, scaler=scaler)
    for batch in batches(8):
        with torch.autocast("cpu", torch.float16):
            loss = loop.run(batch)
        scaler.scale(loss).backward()
        scaler.step(loop.optimizer)
        scaler.update()
        loop.optimizer.zero_grad()
    loop.loss_fn.end_step()
    return loop, scaler


@pytest.mark.parametrize("scale", [2.0**10, 2.0**22])
def test_half_precision_is_scaled_inside_and_skips_the_same_steps(scale):
    (whole, one), (split, two) = scaled(1, scale), scaled(COUNT, scale)
    assert one.get_scale() == two.get_scale()
    assert (one.get_scale() < scale) == (scale > 2.0**20)
    close(split.parameters(), whole.parameters(), 1e-4)
    # A step that was skipped leaves no keys.
    assert split.loss_fn.sampler.count == whole.loss_fn.sampler.count


def test_further_terms_and_factors_are_kept():
    def step(loop, batch):
        (x0, x1), known = batch
        z0, z1 = loop.model(x0), loop.model(x1)
        contrast = loop.loss_fn(z0, z1, **known)
        again = loop.loss_fn(z0, z1.detach(), **known)
        regression = (z0.sum(1) - x0.sum(1)).square().mean()
        bound = loop.model.layers[0].weight.square().sum()
        return {"loss": contrast * 0.3 + again.square() + regression + 0.1 * bound, "rows": x0}

    whole, split = Loop(count=1, step=step), Loop(step=step)
    for batch in batches(5):
        returned = [loop.run(batch) for loop in (whole, split)]
        assert torch.equal(*(each["rows"] for each in returned))
        close(*(each["loss"].detach() for each in returned), 1e-5)
        for loop, each in zip((whole, split), returned, strict=True):
            each["loss"].backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad()
    close(split.parameters(), whole.parameters())


class Remembering(nn.Module):
    """A step that moves a momentum encoder, counts, and reads a memory before it writes it."""

    def __init__(self):
        super().__init__()
        self.online, self.momentum = Net(), Net().requires_grad_(False)
        self.steps = 0
        self.register_buffer("moved", torch.zeros(()))
        self.register_buffer("memory", torch.zeros(24, 8))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def move(self):
        self.steps += 1
        self.moved = self.moved + 1
        for slow, fast in zip(self.momentum.parameters(), self.online.parameters(), strict=True):
            slow.data = 0.7 * slow.data + 0.3 * fast.data

    @torch.no_grad()
    def dequeue_and_enqueue(self, keys):
        rows = (self.place + torch.arange(len(keys))) % len(self.memory)
        self.memory[rows] = keys
        self.place += len(keys)


def test_a_momentum_encoder_a_counter_and_a_memory_change_once():
    def step(loop, batch):
        (x0, x1), known = batch
        model = loop.model
        model.move()
        keys = model.momentum(x1)
        loss = loop.loss_fn(model.online(x0) + model.memory.mean(0), keys, **known)
        model.dequeue_and_enqueue(keys)
        return loss

    whole, split = Loop(count=1, model=Remembering, step=step), Loop(model=Remembering, step=step)
    whole.train(10), split.train(10)
    assert split.model.steps == 10
    assert split.model.moved == 10
    for name, value in whole.model.state_dict().items():
        close(split.model.state_dict()[name], value)
    assert whole.model.memory.norm() > 0


def test_a_handle_serves_a_plain_loop_of_the_host():
    pytest.importorskip("lightly")
    from lightly.loss import NTXentLoss

    from negplug import inject

    found = []
    for count in (1, COUNT):
        torch.manual_seed(0)
        model = nn.ModuleDict({"net": Net(), "criterion": NTXentLoss()})
        handle = inject(model, "memory_bank(size=24)")

        def step(batch, model=model):
            return model["criterion"](*(model["net"](view) for view in batch[0]))

        run = accumulated(step, count, model=model, loss=handle)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in batches(6):
            handle.provide(indexes=batch[1]["indexes"])
            run(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        handle.remove()
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    close(*found)


def test_two_losses_and_no_gradient():
    net, losses = Net(), [ContrastiveLoss(seed=1), ContrastiveLoss("queue(size=48)", seed=2)]

    def step(batch):
        first, second = (net(view) for view in batch[0])
        return losses[0](first, second) + 2 * losses[1](first, second)

    batch, run = next(batches(1)), accumulated(step, 3, model=net, loss=losses)
    wanted = torch.autograd.grad(step(batch), list(net.parameters()))
    losses[1].load_state_dict(ContrastiveLoss("queue(size=48)", seed=2).state_dict())
    found = torch.autograd.grad(run(batch), list(net.parameters()))
    for a, b in zip(found, wanted, strict=True):
        close(a, b)
    with torch.no_grad():
        close(run(batch), step(batch))
