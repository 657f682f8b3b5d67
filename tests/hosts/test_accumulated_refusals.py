"""What cannot be split into micro-batches is refused in one sentence, in the first step."""

from __future__ import annotations

import dataclasses
import logging
from collections import namedtuple

import numpy
import pytest
import torch
from splittable import COUNT, Loop, Net, batches, normalized
from torch import nn

from negplug import ContrastiveLoss, accumulated
from negplug.hosts.accumulation.splitting import split

Named = namedtuple("Named", ["views", "names"])


@dataclasses.dataclass
class Record:
    views: list
    scale: float


ROWS = torch.arange(7)


@pytest.mark.parametrize(
    "batch",
    [
        ROWS,
        [[ROWS, ROWS[:, None]], ROWS],
        {"views": (ROWS, ROWS), "rate": torch.tensor(2.0), "epoch": 3, "nothing": None},
        Named([ROWS, ROWS], [f"{n}.png" for n in range(7)]),
        Record([ROWS], 0.5),
        {"array": numpy.arange(7), "classes": ["cat", "dog"]},
    ],
)
def test_a_batch_is_split_in_its_own_structure(batch):
    parts = split(batch, 3)
    assert [part.rows for part in parts] == [2, 2, 3]
    assert all(type(part.taken()) is type(batch) for part in parts)
    assert _joined([part.taken() for part in parts]) == _joined([batch])


def _joined(parts):
    """What all rows of the parts are, and what they share."""
    first = parts[0]
    if isinstance(first, (torch.Tensor, numpy.ndarray)):
        return [value for part in parts for value in part.tolist()] if first.ndim else float(first)
    if dataclasses.is_dataclass(first):
        return _joined([vars(part) for part in parts])
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, (list, tuple)) and not isinstance(first[0], str):
        return [_joined(list(values)) for values in zip(*parts, strict=True)]
    if isinstance(first, list) and first[0].endswith(".png"):
        return [name for part in parts for name in part]
    return first


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (["a.png", "b.png"], "holds no tensor with rows"),
        ([], "holds no tensor with rows"),
        ([ROWS, ROWS[:4]], r"batch\[0\] has 7 rows and batch\[1\] has 4"),
        ({"x": ROWS, "y": [ROWS[:1]]}, r"batch\['x'\] has 7 rows and batch\['y'\]\[0\] has 1"),
        ([ROWS, {"net": object()}], r"batch\[1\]\['net'\] is of type object"),
        ([ROWS, {1, 2}], r"batch\[1\] is of type set"),
    ],
)
def test_a_batch_that_has_no_rows_is_refused(batch, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        split(batch, 2)
    assert len(str(caught.value)) < 300


def contrast(loop, batch, **more):
    (x0, x1), known = batch
    return loop.loss_fn(loop.model(x0), loop.model(x1), **known, **more)


def mixing(loop, batch):
    z = normalized(loop, batch[0][0])
    return contrast(loop, batch) + 0.1 * (z @ z.T).square().mean()


def spreading(loop, batch):
    return contrast(loop, batch) - 0.1 * loop.model(batch[0][0]).std(0, correction=0).mean()


def summing(loop, batch):
    return contrast(loop, batch) + 0.1 * loop.model(batch[0][0]).square().sum()


def centring(loop, batch):
    loss = contrast(loop, batch)
    loop.model.centre.copy_(batch[0][0].mean(0))
    return loss


def counting(loop, batch):
    loss = contrast(loop, batch)
    loop.model.seen[batch[1]["indexes"]] += 1
    return loss


def private(loop, batch):
    (x0, x1), known = batch
    noise = torch.randn(x0.shape, generator=loop.model.generator)
    return loop.loss_fn(loop.model(x0 + noise), loop.model(x1), **known)


def outside(loop, batch):
    return contrast(loop, batch) * OUTSIDE


def sometimes(loop, batch):
    loss = contrast(loop, batch)
    return loss + contrast(loop, batch) if batch[1]["indexes"][0] == 0 else loss


def skipping(loop, batch):
    loss = contrast(loop, batch)
    return loss if batch[1]["indexes"][0] == 0 else None


OUTSIDE = nn.Parameter(torch.ones(()))


class Keeping(Net):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()
        self.register_buffer("centre", torch.zeros(6))
        self.register_buffer("seen", torch.zeros(24))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (mixing, "no mean over rows and cannot be split; remove accumulate or that term"),
        (spreading, "no mean over rows"),
        (summing, "no mean over rows"),
        (centring, "writes to centre what depends on the rows of its batch"),
        (counting, "writes to seen what depends on the rows of its batch"),
        (private, "is given other embeddings when a micro-batch is run again"),
        (outside, r"trains a parameter of the shape \[\] that is not in the model"),
        (sometimes, "calls its contrastive losses 2 times for one micro-batch and 1 times"),
        (skipping, "returns a loss for some micro-batches of a batch and none for others"),
    ],
)
def test_a_step_that_is_no_sum_over_micro_batches_is_refused(step, message):
    Loop(count=1, model=Keeping, step=step).run(next(batches(1)))  # fine as it is
    with pytest.raises((ValueError, RuntimeError), match=message) as caught:
        Loop(model=Keeping, step=step).run(next(batches(1)))
    assert len(str(caught.value)) < 300


def test_a_hook_on_a_gradient_is_refused_and_one_behind_it_sees_one_gradient():
    loop = Loop()
    weight = loop.model.layers[0].weight
    seen = []
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    loop.run(next(batches(1))).backward()
    assert len(seen) == 1
    loop = Loop()
    loop.model.layers[0].weight.register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(ValueError, match=r"layers.0.weight has a hook on its gradient"):
        loop.run(next(batches(1)))


def test_a_second_backward_pass_is_refused():
    loss = Loop().run(next(batches(1)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="asked for twice; call backward"):
        loss.backward()


def test_what_fails_in_a_micro_batch_leaves_the_losses_as_they_were():
    def failing(loop, batch):
        loss = contrast(loop, batch)
        if not torch.is_grad_enabled():
            raise KeyError("of the recipe")
        return loss

    loop = Loop(step=failing)
    with pytest.raises(KeyError, match="of the recipe"):
        loop.run(next(batches(1)))
    assert "forward" not in vars(loop.loss_fn)
    assert contrast(loop, next(batches(1))).requires_grad


def test_batchnorm_is_said_once_and_its_statistics_go_on(caplog):
    def norm():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))

    with caplog.at_level(logging.WARNING, "negplug"):
        loop = Loop(model=norm)
        loop.train(3)
    assert [r.getMessage()[:34] for r in caplog.records] == [
        "negplug: BatchNorm in training mode"[:34]
    ]
    assert loop.model[1].num_batches_tracked == 3 * COUNT * 2  # views
    caplog.clear()
    loop = Loop(model=lambda: norm().eval())
    loop.train(1)
    assert not caplog.records


@pytest.mark.parametrize(
    ("count", "model", "loss", "message"),
    [
        (0, Net(), ContrastiveLoss(), "accumulate must be at least 1, got 0"),
        (2.5, Net(), ContrastiveLoss(), "accumulate must be an integer, got 2.5"),
        (2, lambda x: x, ContrastiveLoss(), "model must be a torch.nn.Module, got function"),
        (2, Net(), [nn.MSELoss()], "loss must be a negplug.ContrastiveLoss .* got MSELoss"),
    ],
)
def test_bad_arguments(count, model, loss, message):
    with pytest.raises((ValueError, TypeError), match=message):
        accumulated(lambda batch: batch, count, model=model, loss=loss)
