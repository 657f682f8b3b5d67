"""``emc2()`` and ``isir()``: the whole step against a loop."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import chains
import naive
import pytest
import torch
from chain_steps import (
    KINDS,
    OPTIONS,
    SAMPLES,
    TAU,
    assert_same_cache,
    assert_same_chains,
    batch_of,
    batches,
    by_key,
    outside_of,
    table,
    together,
    values_of,
    with_option,
)
from chains import Chains, held

from negplug import ContrastiveLoss, make_sampler
from negplug.contract.dataset import DatasetAccess

FORMS = ["views", "three views", "pairs", "classes", "crops"]


def naive_loss(batch, draws):
    """Mean over the anchors with draws and positives of Σ w s/τ − log Σ_p e^{s_p/τ}."""
    losses = []
    for anchor, (inside, elsewhere) in zip(batch.anchors.embeddings, draws, strict=True):
        positives = batch.keys.embeddings[
            [k for k in batch.positives[len(losses)].tolist() if k >= 0]
        ]
        push = sum(weight * (anchor @ batch.keys.embeddings[key]) for key, weight in inside.items())
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
        loss = loss_fn.contrast(batch.within(dataset=DatasetAccess(SAMPLES, encode)))
        draws = reference.step(batch, step, TAU, encode)
        negatives = seen[0][1]
        weights = by_key(batch, negatives)
        for anchor, (inside, elsewhere) in enumerate(draws):
            wanted = torch.zeros(len(batch.keys.embeddings), dtype=torch.float64)
            for key, weight in inside.items():
                wanted[key] = weight
            torch.testing.assert_close(weights[anchor], wanted, rtol=1e-9, atol=1e-12)
            found = outside_of(negatives, anchor)
            assert found.keys() == elsewhere.keys()
            for image, rows in elsewhere.items():
                torch.testing.assert_close(found[image], together(rows), rtol=1e-9, atol=1e-12)
            total = wanted.sum() + sum(float(value[0]) for value in found.values())
            # Without draws: all were dropped, or there was neither a state nor a proposal.
            who = int(batch.anchors.indexes[anchor]), int(chains.anchor_views(batch)[anchor])
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
        assert_same_chains(values_of(sampler.chains), reference)
        assert_same_cache(values_of(sampler.cache), reference.cache)
    assert (len(reference.states) > SAMPLES) == (form != "pairs")


def test_a_burn_in_just_below_all_leaves_the_last_draw():
    """As a float32 this share is 1."""
    sampler = make_sampler("emc2(burn_in=0.9999999999)")
    scores = torch.randn(5, 40)
    none = torch.full((5,), -torch.inf)
    moves = sampler.move(scores, none, none.isfinite().long() - 1, torch.rand(5, 40), 0)
    torch.testing.assert_close(moves.weights.gather(1, moves.last[:, None]), torch.ones(5, 1))


def test_the_order_of_proposals_is_random_in_every_step():
    """All 24 orders of a batch of four are as likely, by χ² at a confidence of 1 − 10⁻⁶."""
    orders = Counter()

    class Watched(type(make_sampler("emc2()"))):
        def order(self, samples, random):
            samples = super().order(samples, random)
            orders[tuple(samples.indexes.tolist())] += 1
            return samples

    loss_fn = ContrastiveLoss(Watched(out_of_batch="drop"), seed=0)
    views = table(0)[:2, :4].requires_grad_()
    for _ in range(480):
        loss_fn(*views, indexes=torch.arange(4)).backward()
    statistic = sum((orders[order] - 20) ** 2 / 20 for order in permutations(range(4)))
    assert sum(orders.values()) == 480
    assert statistic < naive.chi_square_bound(24)
