"""``emc2()`` and ``isir()``: against loops, on several ranks, refusals, what is measured."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations

import chains
import naive
import numpy
import pytest
import ranks
import torch
from chains import Chains, held
from torch.nn.functional import normalize

from negplug import ContrastiveBatch, ContrastiveLoss, make_sampler
from negplug.contract.dataset import DatasetAccess
from negplug.testing.subject import difference

TAU = 0.2
SAMPLES = 14
BATCH = 4
WIDTH = 6

KINDS = {
    "emc2()": ("emc2", {}),
    "emc2(burn_in=2)": ("emc2", {"burn_in": 2}),
    "emc2(burn_in=0)": ("emc2", {"burn_in": 0}),
    "emc2(burn_in_stop=6)": ("emc2", {"burn_in_stop": 6}),
    "isir()": ("isir", {}),
}
OPTIONS = ["recompute", "cached", "drop"]
FORMS = ["views", "three views", "pairs", "classes", "crops"]


def with_option(expression, option):
    separator = "" if expression.endswith("()") else ", "
    return f"{expression[:-1]}{separator}out_of_batch={option!r})"


def batches(epochs):
    """Data set indexes of shuffled epochs; the last batch is ragged, and one has a sample twice."""
    for epoch in range(epochs):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
        for number, indexes in enumerate(order.split(BATCH)):
            if (epoch, number) in ((1, 1), (2, 0)):
                indexes = torch.cat([indexes[:-1], indexes[:1]])
            yield indexes


def table(step, views=3):
    """Embeddings ``[V, n, d]`` that drift from step to step."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(SAMPLES, WIDTH, dtype=torch.float64, generator=generator)
    generator = torch.Generator().manual_seed(2 + step)
    noise = torch.randn(views, SAMPLES, WIDTH, dtype=torch.float64, generator=generator)
    return base + 0.3 * noise


def batch_of(form, rows, indexes):
    """The batch of a form of loss, of leaves ``[V, n, d]``."""
    views = rows[:, indexes]
    if form == "pairs":
        return ContrastiveBatch.from_pairs(views[0], views[1], indexes)
    if form in ("classes", "crops"):
        # Supervised contrast; crops have ids of this batch alone, so one sample may have two.
        lasting = form == "classes"
        ids = indexes % 3 if lasting else torch.arange(len(indexes))
        anchors = normalize(views[:2].flatten(0, 1))
        return ContrastiveBatch.from_ids(
            anchors, ids.repeat(2), indexes=indexes.repeat(2), lasting=lasting
        )
    return ContrastiveBatch.from_views(tuple(views[: 3 if form == "three views" else 2]), indexes)


def outside_of(negatives, anchor):
    """What an anchor draws outside the batch: Σ_u w_u (1, row) of each image."""
    found = {}
    for part in negatives.others:
        drawn = part.log_weight[anchor] > -torch.inf
        for column, here in zip(part.columns[anchor], drawn, strict=True):
            if here:
                place = len(found.setdefault(int(part.pool_indexes[column]), []))
                weight = part.log_weight[anchor, place].exp()
                found[int(part.pool_indexes[column])].append((part.pool[column], weight))
    return {image: together(rows) for image, rows in found.items()}


def by_key(batch, negatives):
    """Weights ``[N, K]`` of the batch's keys, which the pool holds in another order."""
    weights = torch.zeros(len(batch.anchors), len(batch.keys), dtype=torch.float64)
    free = list(range(len(batch.keys)))
    for column in (negatives.log_weight > -torch.inf).any(0).nonzero()[:, 0].tolist():
        # Of rows that are alike (a sample that is in the batch twice), the first comes first.
        key = next(key for key in free if torch.equal(batch.keys[key], negatives.pool[column]))
        weights[:, key] = negatives.log_weight[:, column].exp()
        free.remove(key)
    return weights


def together(rows):
    one = torch.ones(1, dtype=torch.float64)
    return sum(weight * torch.cat([one, row.detach()]) for row, weight in rows)


def naive_loss(batch, draws):
    """Mean over the anchors with draws and positives of Σ w s/τ − log Σ_p e^{s_p/τ}."""
    losses = []
    for anchor, (inside, elsewhere) in zip(batch.anchors, draws, strict=True):
        positives = batch.keys[[k for k in batch.positives[len(losses)].tolist() if k >= 0]]
        push = sum(weight * (anchor @ batch.keys[key]) for key, weight in inside.items())
        for rows in elsewhere.values():
            push = push + sum(weight * (anchor @ row) for row, weight in rows)
        pays = len(positives) and (inside or elsewhere)
        pull = torch.logsumexp(positives @ anchor / TAU, 0) if pays else 0
        losses.append(push / TAU - pull if pays else 0 * anchor.sum())
    paying = (batch.positives >= 0).any(1).sum()
    return torch.stack(losses).sum() / paying


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("expression", KINDS)
def test_the_whole_step_equals_a_loop(expression, option, form):
    """Weights of every row, loss, gradient, states and scores, what is measured, over epochs."""
    kind, arguments = KINDS[expression]
    reference = Chains(kind, option, **arguments)
    sampler = held(make_sampler(with_option(expression, option)))
    loss_fn = ContrastiveLoss(sampler, temperature=TAU)
    loss_fn.observe = True
    seen = []
    loss_fn.objective.register_forward_pre_hook(lambda _, given: seen.append(given))
    for step, indexes in enumerate(batches(3)):
        leaves = table(step).requires_grad_()
        batch = batch_of(form, leaves, indexes)

        def encode(wanted, leaves=leaves):
            return tuple(leaves[:2, wanted])

        seen.clear()
        loss = loss_fn.contrast(replace(batch, dataset=DatasetAccess(SAMPLES, encode)))
        draws = reference.step(batch, step, TAU, encode)
        negatives = seen[0][1]
        weights = by_key(batch, negatives)
        for anchor, (inside, elsewhere) in enumerate(draws):
            wanted = torch.zeros(len(batch.keys), dtype=torch.float64)
            for key, weight in inside.items():
                wanted[key] = weight
            torch.testing.assert_close(weights[anchor], wanted, rtol=1e-9, atol=1e-12)
            found = outside_of(negatives, anchor)
            assert found.keys() == elsewhere.keys()
            for image, rows in elsewhere.items():
                torch.testing.assert_close(found[image], together(rows), rtol=1e-9, atol=1e-12)
            total = wanted.sum() + sum(float(value[0]) for value in found.values())
            # Without draws: all were dropped, or there was neither a state nor a proposal.
            who = int(batch.indexes[anchor]), int(chains.anchor_views(batch)[anchor])
            none = option == "drop" or who not in reference.known
            assert total == (pytest.approx(1) if inside or elsewhere else 0)
            assert inside or elsewhere or none
        for name, values in reference.measured.items():
            found = loss_fn.observed.get(name)
            assert found == (pytest.approx(sum(values) / len(values)) if values else None)
        value = naive_loss(batch, draws)
        torch.testing.assert_close(loss, value, rtol=1e-9, atol=1e-12)
        (wanted,) = torch.autograd.grad(value, leaves, retain_graph=True)
        (found,) = torch.autograd.grad(loss, leaves)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        loss_fn.end_step()
        state = sampler.get_extra_state()
        assert_same_chains(state["chains"], reference)
        assert_same_cache(state["cache"], reference.cache)
    assert len(reference.states) > SAMPLES


def assert_same_chains(state, reference):
    found = {
        (int(index), int(view)): (int(state["state"][view, index]), state["score"][view, index])
        for view, index in (state["state"] >= 0).nonzero().tolist()
    }
    assert {who: image for who, (image, _) in found.items()} == reference.states
    for who, (_, score) in found.items():
        assert float(score) == pytest.approx(reference.scores[who], rel=1e-9, abs=1e-9)


def assert_same_cache(state, cache):
    known = state["known"].nonzero().tolist()
    assert {(image, view) for view, image in known} == {(i, v) for i in cache for v in cache[i]}
    for view, image in known:
        torch.testing.assert_close(state["embedding"][view, image], cache[image][view])


def test_a_burn_in_just_below_all_leaves_the_last_draw():
    """As a float32 this share is 1."""
    sampler = make_sampler("emc2(burn_in=0.9999999999)")
    scores = torch.randn(5, 40)
    none = torch.full((5,), -torch.inf)
    moves = sampler.move(scores, none, none.isfinite().long() - 1, torch.rand(5, 40), 0)
    torch.testing.assert_close(moves.shares.gather(1, moves.last[:, None]), torch.ones(5, 1))


def test_the_order_of_proposals_is_random_in_every_step():
    """All 24 orders of a batch of four are as likely, by χ² at a confidence of 1 − 10⁻⁶."""
    orders = Counter()

    class Watched(type(make_sampler("emc2()"))):
        def order(self, images, generator):
            images = super().order(images, generator)
            orders[tuple(images.indexes.tolist())] += 1
            return images

    loss_fn = ContrastiveLoss(Watched(out_of_batch="drop"), seed=0)
    views = table(0).requires_grad_()[:2, :4]
    for _ in range(480):
        loss_fn(*views, indexes=torch.arange(4))
    statistic = sum((orders[order] - 20) ** 2 / 20 for order in permutations(range(4)))
    assert sum(orders.values()) == 480
    assert statistic < naive.chi_square_bound(24)


# ------------------------------------------------------------------ ranks


MANY = 30
EVERY = [
    with_option(expression, option) for expression in ("emc2()", "isir()") for option in OPTIONS
]
SIZES = [(3, 3, 3, 3), (2, 4, 3, 1)]
"""Batch sizes of the ranks in even and odd steps."""


def parts(step, world):
    """The data set indexes of every rank's batch."""
    order = torch.randperm(MANY, generator=torch.Generator().manual_seed(step))
    sizes = SIZES[step % 2][:world]
    return order[: sum(sizes)].split(sizes)


def trained(expression, indexes_of, world, steps=8):
    """Gradients by the whole data set's embeddings, summed over the steps; the state at the end."""
    sampler = held(make_sampler(expression))
    loss_fn = ContrastiveLoss(sampler, temperature=TAU)
    total = torch.zeros(2, MANY, WIDTH, dtype=torch.float64)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        leaves = torch.randn(total.shape, dtype=total.dtype, generator=generator).requires_grad_()

        def encode(wanted, leaves=leaves):
            return tuple(leaves[:, wanted])

        loss_fn(*leaves[:, indexes_of(step)], indexes=indexes_of(step), encode=encode).backward()
        total += leaves.grad
    loss_fn.end_step()
    return total, sampler.get_extra_state()


def on_a_rank(rank, world):
    return [trained(each, lambda step: parts(step, world)[rank], world) for each in EVERY]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_are_one_process_on_the_concatenated_batch(world):
    """With the same uniforms; otherwise the draws are keyed by the rank, as of every sampler."""
    found = ranks.run(on_a_rank, world, timeout=60)
    for number, expression in enumerate(EVERY):
        gradient, state = trained(expression, lambda step: torch.cat(parts(step, world)), 1)
        for _, other in (rank[number] for rank in found):
            assert difference(other, found[0][number][1]) is None
            assert torch.equal(other["chains"]["state"], state["chains"]["state"])
            torch.testing.assert_close(other["chains"], state["chains"], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(other["cache"], state["cache"], rtol=1e-9, atol=1e-9)
        mean = sum(rank[number][0] for rank in found) / world
        torch.testing.assert_close(mean, gradient, rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------ recomputation


@pytest.mark.parametrize("expression", ["emc2(out_of_batch='recompute')", "isir('recompute')"])
def test_recomputation_leaves_the_global_generators_alone(expression):
    """Whatever the augmentations draw from; they are others in each step, and repeatable."""

    def run():
        drawn = []

        def encode(indexes):
            drawn.append((float(torch.rand(())), numpy.random.rand(), random.random()))
            noise = torch.randn(len(indexes), WIDTH, dtype=torch.float64)
            return noise + numpy.random.rand(), noise + random.random()

        loss_fn = ContrastiveLoss(expression, seed=0)
        for step, indexes in enumerate(batches(2)):
            views = table(step).requires_grad_()[:2, indexes]
            loss_fn(*views, indexes=indexes, encode=encode).backward()
        return drawn

    def states():
        return torch.get_rng_state().tolist(), str(numpy.random.get_state()), random.getstate()

    before = states()
    first = run()
    assert states() == before
    torch.rand(3), numpy.random.rand(3), random.random()
    assert run() == first
    for source in zip(*first, strict=True):
        assert len(set(source)) == len(first) > 2


def test_samples_are_embedded_anew_under_the_autocast_of_the_loop():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 12, 8, generator=generator)
    encoder = torch.nn.Linear(8, 5)
    kinds = []

    def encode(wanted):
        views = tuple(encoder(view[wanted]) for view in images)
        kinds.append(views[0].dtype)
        return views

    loss_fn = ContrastiveLoss("emc2(out_of_batch='recompute')", seed=0)
    for lower in (False, True):
        for _ in range(3):
            for indexes in torch.randperm(12, generator=generator).split(4):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
                    loss_fn(*encode(indexes), indexes=indexes, encode=encode).backward()
        assert len(kinds) > 10  # the batches' own, the first step's trial, and states outside
        assert set(kinds) == {torch.bfloat16 if lower else torch.float32}
        kinds.clear()
