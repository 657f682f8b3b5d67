"""Ranks that were not given the same raise together, and train on together where they can."""

from __future__ import annotations

import itertools
import os

import pytest
import ranks
import torch
from resumable import same_state
from torch.utils.checkpoint import checkpoint
from unequal_ranks import (
    WIDTH,
    Failing,
    FailingObjective,
    differing,
    encoding_fails,
    said,
    train,
    views_of,
)

from negplug import ContrastiveBatch, ContrastiveLoss

pytestmark = pytest.mark.filterwarnings("ignore:.*all of them are used")

GATHERING = ["gather()", "gather(ring=True)", "queue(size=16)", "memory_bank()", "emc2()"]


def settings(rank, world):
    """What each rank says of each pair of losses, in the first call and in the next."""
    found = []
    for word, build in differing(rank):
        loss_fn = build()
        found.append((word, said(train, loss_fn, rank, 0), said(train, loss_fn, rank, 1)))
    loss_fn = ContrastiveLoss("uniform(num_negatives=2)")
    for name, value in (("BACKEND", "torch"), ("STRICT", "1"), ("DIAGNOSTICS", "gradient_snr")):
        name = f"NEGPLUG_{name}"
        if rank:
            os.environ[name] = value
        found.append((name, *(said(train, loss_fn, rank, 0) for _ in range(2))))
        os.environ.pop(name, None)
    for name, odd in (("float32", torch.float32), ("width", None)):
        z0, z1 = views_of(rank, 0, WIDTH + (rank if odd is None else 0))
        if odd is not None and rank:
            z0, z1 = z0.to(odd), z1.to(odd)
        loss_fn = ContrastiveLoss("in_batch()")
        both = [said(train, loss_fn, rank, 0, z0=z0, z1=z1) for _ in range(2)]
        found.append((name, *both))
    return found


def test_other_settings_on_a_rank_are_refused_on_all(heard):
    for one, other in zip(*heard["settings"], strict=True):
        word = one[0]
        for first, second in zip(one[1:], other[1:], strict=True):
            assert first == second
            assert first is not None, word
            assert first[0] == "RanksError"
            assert word in first[1], first
            assert "rank 0 has" in first[1]
            assert "rank 1 has" in first[1]


def bad_inputs(rank):
    """What rank 1 gives in place of good inputs, by a word of its message."""
    if rank != 1:
        return [(word, {}) for word, _ in bad_inputs(1)]
    z0, z1 = views_of(rank, 9)
    spoilt = z0.detach().clone()
    spoilt[1, 2] = torch.nan
    return [
        ("NaN", {"z0": spoilt.requires_grad_()}),
        ("must have shape", {"z0": z0[:0], "z1": z1[:0]}),
        ("all views must have one shape", {"z1": z1[:3]}),
        ("must have shape", {"z0": z0[None]}),
        ("must be a tensor", {"z1": z1.tolist()}),
        ("floating-point tensor", {"z0": z0.long()}),
        ("one entry per sample", {"indexes": torch.arange(3)}),
        ("must be integers", {"labels": torch.rand(4)}),
        ("at least 0", {"indexes": torch.arange(4) - 2}),
    ]


def inputs(rank, world):
    """For each sampler what each rank says of each bad input, and the states at the end."""
    found = []
    for sampler in GATHERING:
        for first in (0, 2):  # the step in which the bad inputs come
            loss_fn, twin = (ContrastiveLoss(sampler, seed=5 + rank) for _ in range(2))
            for step in range(first):
                train(loss_fn, rank, step)
            told = [
                (word, said(train, loss_fn, rank, first, **bad)) for word, bad in bad_inputs(rank)
            ]
            losses = [train(loss_fn, rank, step) for step in range(first, first + 2)]
            undisturbed = [train(twin, rank, step) for step in range(first + 2)]
            same = same_state(loss_fn.state_dict(), twin.state_dict())
            found.append((sampler, told, losses == undisturbed[first:] and same))
    return found


def test_a_rank_with_bad_inputs_stops_all_and_leaves_no_trace(heard):
    first, second = heard["inputs"]
    for (sampler, others, well), (_, own, too) in zip(first, second, strict=True):
        assert well, sampler
        assert too, sampler
        for (word, told), (_, raised) in zip(others, own, strict=True):
            assert raised is not None, (sampler, word)
            assert raised[0] in {"ValueError", "TypeError"}
            assert word in raised[1]
            assert told is not None, (sampler, word)
            kind, message = told
            assert kind == "RanksError"
            assert message == f"rank 1 failed, so no rank goes on: {raised[0]}: {raised[1]}"


def parts_that_fail(rank, world):
    """What each rank says where a sampler or an objective of rank 1 fails, and of the next step."""
    found = []
    for call in (0, 1):
        for where in ("before", "after", "objective", "ring", "indexes", "encode"):
            options = {"sampler": "gather()"}
            if where in {"before", "after"}:
                options["sampler"] = Failing(call, first=where == "before")
            elif where == "objective":
                options["objective"] = FailingObjective(call)
            elif where == "ring":
                options = {"sampler": "gather(ring=True)", "objective": FailingObjective(call)}
            elif where == "indexes":  # without gathered keys, but with an exchange
                options = {"sampler": "in_batch()", "objective": "sogclr()"}
            elif where == "encode":
                options["sampler"] = 'emc2(out_of_batch="recompute")'
            loss_fn = ContrastiveLoss(**options)
            if where == "encode":
                found.append((where, said(encoding_fails, loss_fn, rank, 0), None))
                continue
            for step in range(call):
                train(loss_fn, rank, step)
            bad = {"indexes": None} if where == "indexes" and rank else {}
            told = said(train, loss_fn, rank, call, **bad)
            found.append((where, told, said(train, loss_fn, rank, call + 1)))
    for objective in (FailingObjective(0), "infonce()"):
        # Nothing is exchanged, but the first call ends with one exchange.
        sampler = Failing(0, gathers=False) if objective == "infonce()" else "in_batch()"
        loss_fn = ContrastiveLoss(sampler, objective)
        found.append(("first", *(said(train, loss_fn, rank, step) for step in range(2))))
    return found


def test_a_part_that_fails_on_a_rank_stops_all(heard):
    first, second = heard["parts_that_fail"]
    for (where, told, later), (_, raised, too) in zip(first, second, strict=True):
        assert later is None, (where, later)
        assert too is None, (where, too)
        assert raised is not None, where
        assert raised[0] != "RanksError", (where, raised)
        assert told == (
            "RanksError",
            f"rank 1 failed, so no rank goes on: {raised[0]}: {raised[1]}",
        )


def without_backward(loss_fn, rank, step):
    """Rank 1 leaves out the backward pass of a step, as a guard of its own may."""
    loss = loss_fn(*views_of(rank, step))
    if rank == 0:
        loss.backward()
    train(loss_fn, rank, step + 1)


def called_twice(loss_fn, rank, step):
    """Rank 1 calls the loss once more."""
    loss = loss_fn(*views_of(rank, step))
    if rank:
        loss = loss + loss_fn(*views_of(rank, step + 1))
    loss.backward()


def paired(loss_fn, rank, step, backward=True):
    """A step of momentum keys, through which no gradient flows between the ranks."""
    queries, keys = views_of(rank, step)
    batch = ContrastiveBatch.from_pairs(queries, keys.detach()).gathered()
    loss = loss_fn.contrast(batch)
    if backward:
        loss.backward()


def later_faults(rank, world):
    """What is said where the ranks part ways after a good first step."""
    found = {}
    loss_fn = ContrastiveLoss("gather()", temperature=0.2)
    train(loss_fn, rank, 0)
    loss_fn.temperature = 0.3 if rank else 0.2
    found["temperature"] = said(train, loss_fn, rank, 1)
    loss_fn.temperature = 0.3  # on all ranks, by a schedule
    found["schedule"] = said(train, loss_fn, rank, 2)
    loss_fn = ContrastiveLoss("queue(size=16)")
    train(loss_fn, rank, 0)
    if rank:
        loss_fn.load_state_dict(loss_fn.state_dict())
    found["load"] = said(train, loss_fn, rank, 1)
    loss_fn = ContrastiveLoss("queue(size=16)")
    if rank:  # the state of another step
        other = loss_fn.state_dict()
        other["_extra_state"]["step"] = 3
        loss_fn.load_state_dict(other)
    found["step"] = said(train, loss_fn, rank, 0)
    for sampler in ("gather()", "gather(ring=True)"):
        for part in (without_backward, called_twice):
            loss_fn = ContrastiveLoss(sampler)
            train(loss_fn, rank, 0)
            found[f"{part.__name__} {sampler}"] = said(part, loss_fn, rank, 1)
    loss_fn = ContrastiveLoss("queue(size=16)")
    for step in range(2):
        paired(loss_fn, rank, step, backward=not (rank and step))
    found["left out"] = said(paired, loss_fn, rank, 2)
    loss_fn = ContrastiveLoss("gather()")
    train(loss_fn, rank, 0)
    elsewhere = dict(zip(("z0", "z1"), (z.to("meta") for z in views_of(rank, 1)), strict=True))
    found["device"] = said(train, loss_fn, rank, 1, **(elsewhere if rank else {}))
    loss_fn = ContrastiveLoss("gather()")
    z0, z1 = views_of(rank, 0)
    inputs = {"z0": z0.detach(), "z1": z1.detach()} if rank else {}
    with torch.set_grad_enabled(True):
        found["gradient"] = said(train, loss_fn, rank, 0, **inputs)
    return found


def test_ranks_that_part_ways_later_are_stopped(heard):
    for found in heard["later_faults"]:
        assert found["schedule"] is None
        assert "take different paths" in found["temperature"][1]
        assert "take different paths" in found["load"][1]
        assert "training steps done: rank 0 has 0, rank 1 has 3" in found["step"][1]
        assert found["gradient"][0] == "RanksError"
        for sampler in ("gather()", "gather(ring=True)"):
            for part in ("without_backward", "called_twice"):
                assert "is in its backward pass, rank 1" in found[f"{part} {sampler}"][1]
        assert "rank 0 in step 2, rank 1 in step 1" in found["left out"][1]
        assert "embeddings of this one are on meta; move" in found["device"][1]


def one_seed(rank, world):
    """Losses and state where each rank has a seed of its own: at once, and stopped and resumed."""
    found = []
    for sampler in ("uniform(num_negatives=2)", "uniform(num_negatives=2, source=gather())"):
        whole, half, rest = (ContrastiveLoss(sampler, seed=7 + rank) for _ in range(3))
        at_once = [train(whole, rank, step) for step in range(4)]
        in_two = [train(half, rank, step) for step in range(2)]
        saved = [half.state_dict()]
        torch.distributed.broadcast_object_list(saved)  # rank 0 alone writes a checkpoint
        rest.load_state_dict(saved[0])
        in_two += [train(rest, rank, step) for step in range(2, 4)]
        found.append((at_once == in_two, whole.state_dict()["_extra_state"]["seed"]))
    return found


def test_the_seed_of_the_draws_is_one_whatever_the_ranks_were_given(heard):
    assert heard["one_seed"] == [[(True, 7), (True, 7)]] * 2


def checkpointed(rank, world):
    """Loss and gradients of steps whose loss is computed again in the backward pass, or not."""
    found = []
    samplers = ("uniform(num_negatives=3, source=gather())", "gather(ring=True)")
    for reentrant, sampler in itertools.product((None, False, True), samplers):
        loss_fn = ContrastiveLoss(sampler, seed=7 + rank)
        for step in range(3):
            views = views_of(rank, step)
            if reentrant is None:
                loss = loss_fn(*views)
            else:
                loss = checkpoint(loss_fn, *views, use_reentrant=reentrant)
            loss.backward()
            found.append([loss.detach(), *(view.grad for view in views)])
    return found


def test_a_call_computed_again_is_the_same_on_all_ranks(heard):
    for found in heard["checkpointed"]:
        plain, again, reentrant = found[:6], found[6:12], found[12:]
        assert same_state(plain, again)
        assert same_state(plain, reentrant)


def everything(rank, world):
    parts = (settings, inputs, parts_that_fail, later_faults, one_seed, checkpointed)
    return {part.__name__: part(rank, world) for part in parts}


@pytest.fixture(scope="module")
def heard():
    """What each rank found in each part, in rank order; a rank that waits ends all of them."""
    each = ranks.run(everything, 2, timeout=60.0)
    return {name: [found[name] for found in each] for name in each[0]}
