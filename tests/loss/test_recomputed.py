"""A call that checkpointing computes again is the same call: draws, pool, gradient and state."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from device import DEVICE
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.contract.dataset import DatasetAccess

STEPS, SIZE = 3, 10
CHOICES = [
    ("in_batch()", "infonce()"),
    ("uniform(num_negatives=4)", "sogclr()"),
    ("queue(size=48)", "relic()"),
    ("memory_bank(num_negatives=5)", "debiased()"),
    ("hierarchical(uniform(num_negatives=3), queue(size=48))", "decoupled()"),
    ("filtered(by='labels')", "infonce()"),
    ("false_negatives(top=3, threshold=0.3, source=queue(size=48))", "infonce()"),
    ("synthetic(num_hardest=4, num_mixed=2, source=queue(size=48))", "infonce()"),
    ("gumbel_max(num_negatives=2, source=queue(size=48))", "infonce()"),
    ("emc2(out_of_batch='recompute')", "infonce()"),
    ("isir()", "decoupled()"),
    ("uniform(num_negatives=4)", "isogclr()"),
]


def encode(indexes):
    """Two views of any sample, by formula."""
    columns = torch.arange(6.0, device=indexes.device)
    return tuple(torch.sin((indexes[:, None] + view + 1) * columns) for view in range(2))


class Training:
    """A head and a loss, trained on the same batches each time."""

    def __init__(self, sampler, objective="infonce()"):
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(STEPS, 3, SIZE, 7, generator=generator).to(DEVICE)
        self.indexes = [torch.randperm(30, generator=generator)[:SIZE] for _ in range(STEPS)]
        self.head = nn.Linear(7, 6, bias=False).to(DEVICE)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(6, 7, generator=generator))
        self.loss_fn = ContrastiveLoss(sampler, objective, seed=5)

    def call(self, step, views):
        """One call of step ``step``; its head is part of what is computed again."""
        indexes = self.indexes[step].to(DEVICE)
        batch = ContrastiveBatch.from_views(tuple(map(self.head, views)), indexes, indexes % 3)
        return self.loss_fn.contrast(batch, dataset=DatasetAccess(encode=encode))

    def run(self, losses):
        """Train; return the losses, the gradients and the final state."""
        found = []
        for step, inputs in enumerate(self.inputs):
            loss = losses(self, step, inputs.clone().requires_grad_())
            loss.backward()
            found += [loss.detach(), self.head.weight.grad.clone()]
            self.head.zero_grad()
        return found, self.loss_fn.state_dict()


def one(part):
    """A call a step, wholly checkpointed if at all."""
    return lambda t, step, x: part(lambda x: t.call(step, x[:2]), x)


def two_in_a_region(part):
    def both(t, step, x):
        return part(lambda x: t.call(step, x[:2]) + 3 * t.call(step, x[1:]), x)

    return both


def a_region_each(part):
    def both(t, step, x):
        first = part(lambda x: t.call(step, x[:2]), x)
        return first + 3 * part(lambda x: t.call(step, x[1:]), x)

    return both


def one_of_two(part):
    """The first call as it is, the second checkpointed."""
    return lambda t, step, x: t.call(step, x[:2]) + part(lambda x: t.call(step, x[1:]), x)


def nested(part):
    return lambda t, step, x: part(lambda x: part(lambda x: t.call(step, x[:2]), x) * 2, x)


def plain(function, x):
    return function(x)


def assert_same(found, wanted):
    for ours, theirs in zip(found[0], wanted[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_same_state(found[1], wanted[1])


def assert_same_state(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(found, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    elif isinstance(found, dict):
        assert found.keys() == wanted.keys()
        for name in found:
            assert_same_state(found[name], wanted[name])
    else:
        assert found == wanted


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("sampler", "objective"), CHOICES)
def test_a_checkpointed_call_is_the_call(sampler, objective, reentrant):
    def part(function, x):
        return checkpoint(function, x, use_reentrant=reentrant)

    for losses in (one, two_in_a_region, a_region_each, one_of_two):
        found = Training(sampler, objective).run(losses(part))
        assert_same(found, Training(sampler, objective).run(losses(plain)))


def keep_products(context, operation, *args, **kwargs):
    kept = (torch.ops.aten.mm.default, torch.ops.aten.cat.default, torch.ops.aten.clone.default)
    policy = CheckpointPolicy
    return policy.MUST_SAVE if operation in kept else policy.PREFER_RECOMPUTE


@pytest.mark.parametrize(("sampler", "objective"), CHOICES)
def test_a_region_that_keeps_some_results_has_the_same_gradient(sampler, objective):
    """Selective checkpointing tells operations by their number, bookkeeping's among them."""
    contexts = functools.partial(create_selective_checkpoint_contexts, keep_products)

    def part(function, x):
        return checkpoint(function, x, use_reentrant=False, context_fn=contexts)

    for losses in (one, two_in_a_region):
        training = Training(sampler, objective)
        training.loss_fn.observe = True  # which a call that is computed again leaves out
        assert_same(training.run(losses(part)), Training(sampler, objective).run(losses(plain)))


def test_a_region_inside_a_region_is_the_call_too():
    def part(function, x):
        return checkpoint(function, x, use_reentrant=False)

    for sampler in ("uniform(num_negatives=4)", "queue(size=48)", "isir()"):
        found = Training(sampler).run(nested(part))
        assert_same(found, Training(sampler).run(nested(plain)))


def test_equal_calls_of_a_step_are_told_apart_by_their_order():
    def losses(part):
        return lambda t, step, x: part(lambda x: t.call(step, x[:2]) + t.call(step, x[:2]), x)

    def part(function, x):
        return checkpoint(function, x, use_reentrant=False)

    found = Training("uniform(num_negatives=2)").run(losses(part))
    assert_same(found, Training("uniform(num_negatives=2)").run(losses(plain)))


@pytest.mark.parametrize("sampler", ["uniform(num_negatives=4)", "queue(size=48)", "emc2()"])
def test_a_gradient_cache_is_one_call_a_step(sampler):
    """Chunks are embedded without a graph, the loss is called once, and then chunk by chunk."""

    def cached(training):
        found = []
        for step, inputs in enumerate(training.inputs):
            with torch.no_grad():
                rows = torch.cat([training.head(x) for x in inputs[:2].flatten(0, 1).split(4)])
            rows = rows.requires_grad_()
            indexes = training.indexes[step].to(DEVICE)
            loss = training.loss_fn(*rows.split(SIZE), indexes=indexes)
            loss.backward()
            chunks = zip(inputs[:2].flatten(0, 1).split(4), rows.grad.split(4), strict=True)
            for chunk, gradient in chunks:
                (training.head(chunk) * gradient).sum().backward()
            found += [loss.detach(), training.head.weight.grad.clone()]
            training.head.zero_grad()
        return found, training.loss_fn.state_dict()

    def straight(t, step, x):
        return t.loss_fn(t.head(x[0]), t.head(x[1]), indexes=t.indexes[step].to(DEVICE))

    assert_same(cached(Training(sampler)), Training(sampler).run(straight))


def test_every_backward_pass_over_a_kept_graph_computes_the_same():
    training = Training("uniform(num_negatives=3)")
    x = training.inputs[0]
    loss = checkpoint(lambda x: training.call(0, x[:2]), x.requires_grad_(), use_reentrant=False)
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_call_inside_of_a_backward_pass_that_was_not_made_before_is_refused():
    loss_fn = ContrastiveLoss("uniform(num_negatives=2)")
    z = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    other = -z.flip(1)

    @torch.enable_grad()
    def call_another(size):
        loss_fn(*other[:, :size].clone().requires_grad_())

    for size in (6, 5):
        loss = loss_fn(*z.clone().requires_grad_())
        loss.register_hook(lambda _, size=size: call_another(size))
        with pytest.raises(RuntimeError, match="with embeddings of no call before it"):
            loss.backward()


def test_a_call_whose_memory_has_changed_since_is_refused():
    training = Training("queue(size=48)")
    x = training.inputs[0].clone().requires_grad_()
    late = checkpoint(lambda x: training.call(0, x[:2]), x, use_reentrant=False)
    late.backward(retain_graph=True)
    training.loss_fn.end_step()
    with pytest.raises(RuntimeError, match="again after its step was closed"):
        late.backward()


def test_a_loss_is_copied_between_two_steps_with_what_it_holds_back():
    straight = Training("queue(size=48)")
    for step in range(2):
        straight.call(step, straight.inputs[step][:2]).backward()
    copied = copy.deepcopy(straight)
    last = [t.call(2, t.inputs[2][:2]).detach() for t in (straight, copied)]
    assert torch.equal(*last)
    assert_same_state(copied.loss_fn.state_dict(), straight.loss_fn.state_dict())
