"""Whichever way a step calls its losses, and wherever they live, a logical batch is one batch."""

from __future__ import annotations

import hosts
import pytest
import torch
from encoding import by_the_sample_alone
from splittable import COUNT, Loop, Net, batches
from torch import nn

from negplug import ContrastiveLoss, LearnedTemperature, accumulated
from negplug.contract.batch import ContrastiveBatch


class Towers(nn.Module):
    """Two encoders that drop nothing, or something; their loss inside of the model or beside it."""

    def __init__(self, loss_fn, inside, dropout=0.0):
        super().__init__()
        self.one, self.other = Net(dropout), Net(dropout)
        self.beside = [loss_fn]
        if inside:
            self.loss_fn = loss_fn

    def forward(self, batch):
        (x0, x1), known = batch
        given = torch.stack([x0, x1], dim=1)  # two hard negatives for each query
        return self.beside[0].pairs(self.one(x0), self.other(x1), self.other(given), **known)


def trained(count, inside=False, sampler="queue(size=60)", dropout=0.0):
    """Return losses, parameters and the loss's state after some steps with ``pairs``."""
    torch.manual_seed(0)
    loss_fn = ContrastiveLoss(sampler, temperature=LearnedTemperature(0.2), seed=3)
    model = Towers(loss_fn, inside, dropout)
    learning = dict.fromkeys([*model.parameters(), *loss_fn.parameters()])
    optimizer = torch.optim.SGD(list(learning), lr=0.05)
    step = accumulated(model, count, model=model, loss=loss_fn)
    values = []
    for batch in batches(5):
        optimizer.zero_grad()
        loss = step(batch)
        loss.backward()
        optimizer.step()
        values.append(loss.detach())
    loss_fn.end_step()
    tensors = {**model.state_dict(), **loss_fn.state_dict()}
    return torch.stack(values), {n: v for n, v in tensors.items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("sampler", ["in_batch()", "queue(size=60)"])
def test_pairs_and_what_losses_keep_are_those_of_the_whole_batch(sampler, inside):
    whole, split = (trained(count, inside, sampler) for count in (1, COUNT))
    torch.testing.assert_close(split[0], whole[0], rtol=1e-4, atol=1e-5)
    assert split[1].keys() == whole[1].keys()
    for name, value in whole[1].items():
        torch.testing.assert_close(split[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loss_that_nobody_named_is_refused_with_dropout_too(dropout):
    def step(loop, batch):
        (x0, x1), _ = batch
        own = loop.loss_fn(loop.model(x0), loop.model(x1))
        return own + other.pairs(loop.model(x0), loop.model(x1))

    other = ContrastiveLoss("in_batch()")
    loop = Loop(model=lambda: Net(dropout), step=step)
    with pytest.raises(ValueError, match="accumulate: beside its contrastive losses"):
        loop.run(next(batches(1)))


def test_a_step_that_calls_no_loss_given_is_refused():
    loop = Loop(step=lambda loop, batch: loop.model(batch[0][0]).square().mean())
    with pytest.raises(ValueError, match=r"accumulated: the step calls none .* as loss=…"):
        loop.run(next(batches(1)))


def test_a_batch_of_the_steps_own_is_refused():
    def step(loop, batch):
        views = [loop.model(x) for x in batch[0]]
        return loop.loss_fn.contrast(ContrastiveBatch.from_views(views))

    with pytest.raises(ValueError, match=r"accumulate: the step calls contrast\(\)"):
        Loop(step=step).run(next(batches(1)))


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"loss": nn.Linear(2, 2)}, TypeError, "loss must be .* got Linear"),
        ({"loss": 3}, TypeError, "loss must be .* got int"),
        ({"step": None}, TypeError, "step must be a function of a batch"),
        ({"model": nn.Identity()}, ValueError, "model has no parameters"),
    ],
)
def test_arguments_are_named(changed, error, named):
    given = {"step": len, "accumulate": 2, "model": Net(), "loss": ContrastiveLoss()} | changed
    with pytest.raises(error, match=f"accumulated: {named}"):
        accumulated(**given)


def test_one_loss_may_be_named_twice():
    loop = Loop(count=1)
    step = accumulated(loop.step, COUNT, model=loop.model, loss=[loop.loss_fn, loop.loss_fn])
    batch = next(batches(1))
    torch.testing.assert_close(step(batch), loop.step(batch))


def test_what_the_objective_of_a_treated_loss_learns_has_its_gradient(caplog):
    """And it is said that the recipe's own optimizer does not train it."""
    found = []
    for count in (1, COUNT):
        hosts.lightning().seed_everything(0)
        control = hosts.negative_control()("in_batch()", "sigmoid(learn=True)", accumulate=count)
        trainer = hosts.trainer(callbacks=[control], max_steps=1)
        trainer.fit(by_the_sample_alone(hosts.recipe()), hosts.loader())
        (treated,) = control.injection.losses.values()
        found.append(treated.loss.objective.bias.grad)
        said = f"objective.bias of {hosts.site_name()} learns, but is in no optimizer"
        assert said in caplog.text
        caplog.clear()
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("form", [torch.Tensor.tolist, torch.Tensor.numpy])
def test_labels_in_lists_and_arrays_are_joined(form):
    def step(loop, batch):
        views, known = batch
        return loop.loss_fn(*map(loop.model, views), labels=form(known["labels"]))

    values = [Loop('filtered(by="labels")', count, step=step).train(3) for count in (1, COUNT)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-5)


def test_a_list_of_tensors_is_refused():
    def step(loop, batch):
        views, known = batch
        return loop.loss_fn(*map(loop.model, views), labels=list(known["labels"][:, None]))

    with pytest.raises(ValueError, match="is given labels, a list of tensors, which cannot be"):
        Loop(step=step).run(next(batches(1)))
