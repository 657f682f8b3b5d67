"""Ranks that drift apart without a fault of any call: what they learn, call, see and wait for."""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import logging
import re
import warnings

import pytest
import ranks
import torch
import torch.distributed as dist
from unequal_ranks import said, train, views_of

from negplug import ContrastiveLoss, LearnedTemperature, inject
from negplug.kernels import meeting
from negplug.kernels.torch_private import default_store

HAS_LIGHTLY = importlib.util.find_spec("lightly") is not None
LEARNING = {
    "temperature.logit_scale": {"temperature": LearnedTemperature},
    "objective.bias": {"objective": lambda: "sigmoid(learn=True)"},
}


def learns(rank, sampler, options, averaged):
    """What a rank says while it trains the loss's parameters, by its own gradients or all ranks'.

    Nothing wraps the loss in DDP, which would average them.
    """
    loss_fn = ContrastiveLoss(sampler, seed=3, **{name: make() for name, make in options.items()})
    optimizer = torch.optim.SGD(loss_fn.parameters(), lr=0.1)

    def steps():
        for step in range(6):
            optimizer.zero_grad()
            train(loss_fn, rank, step)
            for parameter in loss_fn.parameters() if averaged else ():
                dist.all_reduce(parameter.grad)
            optimizer.step()

    return said(steps)


def sharpens(rank):
    """What a rank says that perturbs what the loss learns by itself, for a second pass (SAM)."""
    loss_fn = ContrastiveLoss("gather()", temperature=LearnedTemperature(), seed=3)
    (parameter,) = loss_fn.parameters()
    optimizer = torch.optim.SGD([parameter], lr=0.1)

    def steps():
        for step in range(4):
            train(loss_fn, rank, step)
            optimizer.zero_grad()
            with torch.no_grad():
                parameter.add_(0.1 * (1 + rank))
            train(loss_fn, rank, step)
            with torch.no_grad():
                parameter.sub_(0.1 * (1 + rank))
            dist.all_reduce(parameter.grad)
            optimizer.step()

    return said(steps)


def learned(rank, world):
    for name, options in LEARNING.items():
        yield (
            name,
            learns(rank, "gather()", options, False),
            learns(rank, "gather()", options, True),
            sharpens(rank),
            learns(rank, "in_batch()", options, False),  # replicas, for all that anybody knows
        )


def test_what_a_loss_learns_is_the_same_on_all_ranks(heard):
    for zero, one in zip(*heard["learned"], strict=True):
        (name, *first), (_, *second) = zero, one
        assert first[1:] == second[1:] == [None, None, None]
        (late,) = [told for told in (first[0], second[0]) if told[0] == "ValueError"]
        (early,) = [told for told in (first[0], second[0]) if told[0] == "RanksError"]
        assert f"different values of the loss's {name}: after step 1 rank" in late[1]
        assert late[1] in early[1]


def other_order(rank, world):
    """What a rank says where the other one calls two losses in another order."""
    first, second = ContrastiveLoss("gather()", seed=3), ContrastiveLoss("gather()", seed=3)
    for step in range(2):
        losses = (second, first) if rank and step else (first, second)
        told = said(lambda: sum(loss(*views_of(rank, step)) for loss in losses).backward())  # noqa: B023
        yield told


def test_losses_are_called_in_one_order(heard):
    for found in heard["other_order"]:
        assert found[0] is None
        assert found[1][0] == "RanksError"
        assert re.fullmatch(
            r"the ranks call different losses, counted as they were first called: rank 0 number "
            r"\d+, rank 1 number \d+; have all ranks call them in one order",
            found[1][1],
        )


class Two(torch.nn.Module):
    """Two losses of one host, of which a rank may call the other one first."""

    def __init__(self):
        super().__init__()
        kind = importlib.import_module("lightly.loss").NTXentLoss
        self.first, self.second = (kind(0.2, gather_distributed=True) for _ in range(2))


def other_names(rank, world):
    if not HAS_LIGHTLY:
        return
    model = Two()
    with inject(model, "gather()"):
        names = ("second", "first") if rank else ("first", "second")
        yield said(lambda: [getattr(model, name)(*views_of(rank, 0)) for name in names])


@pytest.mark.skipif(not HAS_LIGHTLY, reason="run with Lightly")
def test_losses_of_a_model_are_called_in_one_order_from_the_first_step_on(heard):
    for (told,) in heard["other_names"]:
        assert "loss that is called: rank 0 has first, rank 1 has second" in told[1]


def same_samples(rank, world):
    """What a rank is warned of, by what it has in common with the other one."""
    steps = {
        "nothing": {},
        "rows": dict(zip(("z0", "z1"), views_of(0, 0), strict=True)),
        "samples": {"indexes": torch.arange(4).roll(rank)},
        "one row": {"z0": torch.ones(4, 6, dtype=torch.float64, requires_grad=True)}
        | {"z1": torch.ones(4, 6, dtype=torch.float64)},
    }
    for name, given in steps.items():
        given = {"indexes": None} | given
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss_fn = ContrastiveLoss("in_batch()", seed=3)
            for _ in range(2):
                train(loss_fn, rank, 0, **given)
        yield name, [str(each.message) for each in caught]


def test_ranks_with_the_same_samples_are_warned_of_once(heard):
    first, second = map(dict, heard["same_samples"])
    for name, told in first.items():
        assert not second[name]
        same = name in {"rows", "samples"}
        assert len(told) == same, (name, told)
        assert not same or told[0].startswith("ranks 0, 1 train on the same samples")
        assert not same or "or, if the recipe has gathered the embeddings itself" in told[0]


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())
        default_store().set("a rank waits", "")


def evaluates_first(rank, world):
    """What rank 0 logs, which evaluates while the other one is elsewhere."""
    logged = Heard()
    logging.getLogger("negplug").addHandler(logged)
    loss_fn = ContrastiveLoss("gather()", seed=3)
    train(loss_fn, rank, 0)
    meeting._patience[dist.group.WORLD] = 0.2  # less than ranks may take to meet
    if rank:
        default_store().wait(["a rank waits"], datetime.timedelta(seconds=60))
    with torch.no_grad():
        loss_fn(*views_of(rank, 1))
    return logged.lines


def test_a_rank_that_waits_in_an_exchange_says_so(heard):
    first, second = heard["evaluates_first"]
    assert second == []
    (line,) = first
    assert line.startswith("this rank has waited 0.2 s for another one: it gathers rows.")
    assert "as many calls of the loss, in validation too" in line


def grad(loss, views):
    torch.autograd.grad(loss, views, retain_graph=True)


def backward(loss, views):
    loss.backward(inputs=views, retain_graph=True)


def probes(rank, world):
    """What a rank says where one of them, or both, ask for a gradient in the middle of a step."""
    for sampler in ("gather()", "gather(ring=True)"):
        for probe in (grad, backward):
            for asking in ([0], [0, 1]):
                loss_fn, views = ContrastiveLoss(sampler, seed=3), views_of(rank, 1)
                train(loss_fn, rank, 0)
                loss = loss_fn(*views)

                def step(asks=rank in asking, loss=loss, views=views, probe=probe):
                    if asks:
                        probe(loss, views)
                    loss.backward()

                yield len(asking), said(step)
                dist.barrier()


def test_a_gradient_that_a_rank_alone_asks_for_is_an_error_on_all(heard):
    first, second = heard["probes"]
    assert first == second
    assert len(first) == 8
    for asking, told in first:
        if asking == 2:
            assert told is None
        else:
            assert told[0] == "RanksError"
            assert told[1].startswith("rank 0 asks for a gradient (torch.autograd.grad, or inputs=")


def everything(rank, world):
    parts = (learned, other_order, other_names, same_samples, probes, evaluates_first)
    return {part.__name__: list(part(rank, world)) for part in parts}


@pytest.fixture(scope="module")
def heard():
    each = ranks.run(everything, 2)
    return {name: [found[name] for found in each] for name in each[0]}
