"""Steps in the installed host's Trainer, which alone says where they end; and in plain loops."""

from __future__ import annotations

import hosts
import pytest
import torch
from fitted import fit

from negplug import make_sampler

pytestmark = pytest.mark.filterwarnings("ignore")
BATCHES = 3


def watched(expression="queue(size=256)"):
    """A sampler, and the counters of the calls that it will serve."""
    sampler, draws = make_sampler(expression), []

    def look(_, given):
        context = given[0].context
        if context.training:
            draws.append((context.draws.step, context.draws.call))

    sampler.register_forward_pre_hook(look)
    return sampler, draws


def recipe(change=None, optimizer=None):
    """The host's recipe with another training step, or another optimizer."""
    hosts.lightning().seed_everything(0)
    module = hosts.recipe()
    if change is not None:
        inner = module.training_step
        module.training_step = lambda batch, batch_idx: change(module, inner, batch, batch_idx)
        module.automatic_optimization = change is not skipping_by_hand
    if optimizer is not None:
        module.configure_optimizers = lambda: optimizer(module.parameters())
    return module


def trained(change=None, optimizer=None, expression="queue(size=256)"):
    """The weights after a fit, its draws and the queue's count."""
    sampler, draws = watched(expression)
    module, callback, _ = fit(sampler, size=8 * BATCHES, module=recipe(change, optimizer))
    (loss,) = callback.injection.losses.values()
    return hosts.parameters(module), draws, getattr(loss.loss.sampler, "count", None)


def probed(module, inner, batch, batch_idx):
    """Compute a loss that nobody uses ahead of the one that counts, and keep it for a while."""
    probe = inner(batch, batch_idx)
    assert value(probe).requires_grad
    return inner(batch, batch_idx)


def balanced(module, inner, batch, batch_idx):
    """Look at a gradient ahead of the backward pass, as weights of several losses ask for it."""
    loss = inner(batch, batch_idx)
    weights = [p for p in module.parameters() if p.requires_grad]
    torch.autograd.grad(value(loss), weights, retain_graph=True, allow_unused=True)
    return loss


def skipping(module, inner, batch, batch_idx):
    """Leave the second batch out, as a guard against NaN does."""
    loss = inner(batch, batch_idx)
    return None if batch_idx == 1 else loss


def skipping_by_hand(module, inner, batch, batch_idx):
    """Leave the second batch's gradients where they are, until the next ones are cleared."""
    optimizer = module.optimizers()
    loss = value(inner(batch, batch_idx))
    optimizer.zero_grad()
    module.manual_backward(loss)
    if batch_idx != 1:
        optimizer.step()


def checkpointed(module, inner, batch, batch_idx):
    # Its one argument wants a gradient, as a checkpointed region's must.
    start = torch.zeros((), requires_grad=True)

    def region(start):
        return value(inner(batch, batch_idx)) + start

    return torch.utils.checkpoint.checkpoint(region, start, use_reentrant=False)


def value(loss):
    return loss["loss"] if isinstance(loss, dict) else loss


# solo-learn's loss is treated while its training step runs, and a region around all of that step
# is computed again later: torch then finds other tensors and says so.
CHANGES = [probed, balanced] if hosts.solo_generation() else [probed, balanced, checkpointed]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("expression", ["queue(size=256)", "uniform(num_negatives=3)"])
def test_what_a_training_step_does_beside_shifts_nothing(change, expression):
    weights, draws, count = trained(change, expression=expression)
    wanted, plain, full = trained(expression=expression)
    torch.testing.assert_close(weights, wanted, rtol=1e-5, atol=1e-6)
    assert count == full
    assert len(draws) > len(plain) or change is balanced
    assert {step for step, _ in draws} == set(range(BATCHES))


@pytest.mark.parametrize("change", [skipping, skipping_by_hand], ids=lambda c: c.__name__)
def test_a_batch_that_is_skipped_is_no_step(change):
    _, draws, count = trained(change)
    assert draws == [(0, 0), (1, 0), (1, 0)]
    assert count == (BATCHES - 1) * 16


def test_a_closure_that_an_optimizer_calls_again_is_one_step():
    def lbfgs(parameters):
        return torch.optim.LBFGS(parameters, lr=1e-3, max_iter=3)

    _, draws, count = trained(optimizer=lbfgs, expression="queue(size=256)")
    assert len(draws) > BATCHES + 1  # the first batch has no negatives, and so no gradient
    assert set(draws) == {(step, 0) for step in range(BATCHES)}
    assert draws == sorted(draws)
    assert count == BATCHES * 16


def test_gradient_accumulation_takes_every_batch_for_a_step():
    sampler, draws = watched()
    _, callback, _ = fit(sampler, size=8 * 4, module=recipe(), accumulate_grad_batches=2)
    assert draws == [(step, 0) for step in range(4)]
    (loss,) = callback.injection.losses.values()
    assert loss.loss.sampler.count == 4 * 16
