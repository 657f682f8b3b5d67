"""``emc2()`` and ``isir()`` estimate the gradient over the whole data set; a batch alone does not.

Embeddings are frozen: 16 clusters in 32 dimensions, two fixed views of each image, batches of 8.

A bias is measured, not the error that it hides in. Of independent estimates g_r of a gradient G,

    mean over r ≠ s of ⟨g_r − G, g_s − G⟩

has the expectation ‖E g − G‖², whatever the noise of the g_r, and its standard error is known
from the same products. A plateau of the error at 15 % or more, that of the in-batch softmax or of
chains over single views, lies a hundred standard errors off.
"""

from __future__ import annotations

import functools
import math

import naive
import pytest
import torch
from torch.nn.functional import normalize

from negplug import ContrastiveBatch, ContrastiveLoss, make_sampler
from negplug.kernels.random.distinct import distinct_places
from negplug.kernels.random.numbers import RandomNumbers

BATCH = 8
CONFIDENCE = 1 - 1e-6
ERRORS = 6
"""Standard errors that a bound allows for."""


def table(images):
    """``[2, n, d]`` unit rows."""
    generator = torch.Generator().manual_seed(0)
    shape = (images, 32)
    centres = torch.randn(16, 32, generator=generator)
    base = centres[torch.arange(images) % 16] + 0.7 * torch.randn(shape, generator=generator)
    views = [base + 0.35 * torch.randn(shape, generator=generator) for _ in range(2)]
    return normalize(torch.stack(views).double(), dim=2)


def bias(estimates, exact, gap=0):
    """‖bias‖²/‖exact‖² and its standard error, of estimates ``[R, …]``.

    Estimates at most ``gap`` places apart are taken to depend on each other.
    """
    off = (estimates - exact).flatten(1)
    place = torch.arange(len(off))
    apart = (place[:, None] - place).abs() > gap
    products = (off @ off.T)[apart]
    error = math.sqrt(2) * products.norm() / len(products)
    return float(products.mean() / exact.norm() ** 2), float(error / exact.norm() ** 2)


# ------------------------------------------------------------------ the chains alone

IMAGES = 256
ANCHORS = torch.arange(0, IMAGES, 8)
REPLICAS = 128
UNCOUNTED = COUNTED = 150
"""Visits of a chain, so many epochs: the former to forget where it started."""


@functools.cache
def target(temperature, single=False):
    """Scores ``[A, C]`` of what a chain has as states, and their mean rows ``[A, C, d]``.

    These are the images with the mean of their views by the views' own softmax or, if ``single``,
    single views.
    """
    rows = table(IMAGES)
    logits = torch.einsum("ad,vnd->van", rows[0, ANCHORS], rows) / temperature
    logits[:, torch.arange(len(ANCHORS)), ANCHORS] = -torch.inf
    if single:
        return torch.cat([*logits], 1), rows.flatten(0, 1).expand(len(ANCHORS), -1, -1)
    inside = logits.softmax(0).nan_to_num(0.5)
    return logits.logsumexp(0), torch.einsum("van,vnd->and", inside, rows)


class InBatch:
    """The weights of the batch's own softmax."""

    def noise(self, scores, random):
        return None

    def move(self, scores, initial, place, noise, step):
        return scores.softmax(1), torch.zeros(len(scores)), torch.zeros(len(scores)).long(), None


@functools.cache
def simulated(expression, temperature, single=False):
    """Independent chains: mean weights ``[A, R, C]`` and final states ``[A, R]``.

    A visit of anchor i's chain meets 7 of the other images, uniformly without replacement.
    """
    sampler = InBatch() if expression == "in_batch()" else make_sampler(expression)
    scores, _ = target(temperature, single)
    generator = torch.Generator().manual_seed(0)
    random = RandomNumbers(0, torch.device("cpu"))
    anchor = torch.arange(len(ANCHORS)).repeat_interleave(REPLICAS)
    chains = torch.arange(len(anchor))
    state = torch.full_like(anchor, -1)
    others = torch.full_like(anchor, IMAGES - 1)
    total = torch.zeros(len(anchor), scores.shape[1], dtype=scores.dtype)
    for visit in range(UNCOUNTED + COUNTED):
        proposed, _ = distinct_places(others, BATCH - 1, random)
        proposed += (proposed >= ANCHORS[anchor, None]).long()
        if single:
            proposed = torch.cat([proposed, proposed + IMAGES], 1)
        order = torch.rand(proposed.shape, generator=generator).argsort(1)
        proposed = proposed.gather(1, order)
        here = proposed == state[:, None]
        place = here.int().argmax(1).where(here.any(1), -1)
        initial = scores[anchor, state.clamp(min=0)].where(state >= 0, -torch.inf)
        offered = scores[anchor[:, None], proposed]
        noise = sampler.noise(offered, random)
        weights, outside, last, _ = sampler.move(offered, initial, place, noise, visit)
        if visit >= UNCOUNTED:
            total.scatter_add_(1, proposed, weights)
            total[chains, state.clamp(min=0)] += outside
        state = proposed.gather(1, last.clamp(min=0)[:, None])[:, 0].where(last >= 0, state)
    return (total / COUNTED).view(len(ANCHORS), REPLICAS, -1), state.view(-1, REPLICAS)


SAMPLERS = ["emc2()", "emc2(burn_in=0)", "isir()"]
TEMPERATURES = [1.0, 0.2, 0.07]


def gradients(expression, temperature, single=False):
    """Σ_c w_c z_c of each replica ``[R, A, d]``, and the exact one."""
    weights, _ = simulated(expression, temperature, single)
    scores, rows = target(temperature, single)
    found = torch.einsum("arn,and->rad", weights, rows)
    return found, torch.einsum("an,and->ad", scores.softmax(1), rows)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("expression", SAMPLERS)
def test_the_draws_have_the_mean_of_the_softmax_over_the_data_set(expression, temperature):
    """A bias of 2 % of the gradient or more is excluded."""
    squared, error = bias(*gradients(expression, temperature))
    assert abs(squared) < ERRORS * error
    assert squared + ERRORS * error < 0.02**2


@pytest.mark.parametrize(("temperature", "least"), [(1.0, 0.02), (0.2, 0.4), (0.07, 0.5)])
def test_a_batch_alone_has_another_mean(temperature, least):
    squared, error = bias(*gradients("in_batch()", temperature))
    assert squared - ERRORS * error > least**2


def test_chains_over_single_views_would_have_another_mean():
    """Both views of an image are proposed together, so the sibling of a state far too often."""
    squared, error = bias(*gradients("emc2()", 0.2, single=True))
    assert squared - ERRORS * error > 0.1**2


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("expression", SAMPLERS)
def test_states_are_distributed_as_the_softmax(expression, temperature):
    """χ² of the final states of all replicas, of one visit each, at a confidence of 1 − 10⁻⁶."""
    _, states = simulated(expression, temperature)
    p = target(temperature)[0].softmax(1)
    order = p.argsort(1, descending=True)
    after = p.gather(1, order).cumsum(1)
    rank = order.argsort(1).gather(1, states)
    # Uniform in (0, 1) if states have their probabilities: images side by side, likeliest first.
    spread = torch.rand(states.shape, generator=torch.Generator().manual_seed(1))
    quantile = after.gather(1, rank) - spread * p.gather(1, states)
    counts = (16 * quantile).long().clamp(0, 15).flatten().bincount(minlength=16)
    expected = states.numel() / 16
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < naive.chi_square_bound(16, CONFIDENCE)


# ------------------------------------------------------------------ through the loss

FEW = 64
BLOCKS, EPOCHS = 24, 8
"""A chain meets half of the images in a block of epochs; blocks further apart are independent."""
AT = 0.2


def exact(form):
    """The gradient ``[2, n, d]`` of the loss over all 64 images, positives outside the softmax."""
    views = table(FEW).requires_grad_()
    keys = views.flatten(0, 1) if form == "views" else views[1].detach()
    anchors = keys if form == "views" else views[0]
    own = torch.arange(len(anchors)) % FEW
    logits = anchors @ keys.T / AT
    negative = logits.masked_fill(own[:, None] == torch.arange(len(keys)) % FEW, -torch.inf)
    pairs = torch.stack([views[0], views[1] if form == "views" else keys])
    positive = (pairs[0] * pairs[1]).sum(1).mean() / AT
    (gradient,) = torch.autograd.grad(negative.logsumexp(1).mean() - positive, views)
    return across(gradient)


def across(gradient):
    """What is left of the gradient by unit rows when they are normalised."""
    rows = table(FEW)
    return gradient - (gradient * rows).sum(2, keepdim=True) * rows


@functools.cache
def blocks(expression, objective, form, seed=5):
    """Mean gradients of blocks of epochs ``[R, 2, n, d]``; the first block is left out."""
    loss_fn = ContrastiveLoss(expression, objective, temperature=AT, seed=1)
    generator = torch.Generator().manual_seed(seed)
    views = table(FEW).requires_grad_()
    found = []
    for epoch in range((BLOCKS + 1) * EPOCHS):
        for indexes in torch.randperm(FEW, generator=generator).split(BATCH):
            first, second = views[:, indexes]
            if form == "pairs":
                batch = ContrastiveBatch.from_pairs(first, second.detach(), indexes)
                loss_fn.contrast(batch).backward()
            else:
                encode = functools.partial(lookup, views)
                loss_fn(first, second, indexes=indexes, encode=encode).backward()
        if epoch % EPOCHS == EPOCHS - 1:
            found.append(views.grad / (EPOCHS * FEW / BATCH))
            views.grad = None
    return torch.stack(found[1:])


def lookup(views, indexes):
    return tuple(views[:, indexes])


def in_batch(form):
    """Mean gradients of blocks with the negatives of the batch, positives outside the softmax."""
    return blocks("in_batch()", "decoupled()", form, seed=6)


@pytest.mark.parametrize("form", ["views", "pairs"])
def test_infonces_gradient_is_another_one(form):
    """By more than a fifth of the gradient."""
    squared, error = bias(in_batch(form), exact(form), gap=1)
    assert squared - 4 * error > 0.2**2


@pytest.mark.parametrize("kind", ["emc2", "isir"])
@pytest.mark.parametrize(("option", "form"), [("recompute", "views"), ("cached", "pairs")])
def test_the_losss_gradient_is_that_over_the_data_set(kind, option, form):
    """Through both arguments where states are embedded anew, and by the anchors where cached.

    Of the way from the exact gradient to that of the batch alone, less than a third is gone.
    """
    found = blocks(f"{kind}(out_of_batch={option!r})", "infonce()", form) - exact(form)
    way = in_batch(form).mean(0) - exact(form)
    gone = (found * way).flatten(1).sum(1) / way.norm() ** 2
    error = gone.std() / BLOCKS**0.5
    assert abs(gone.mean()) < ERRORS * error
    assert gone.mean() + ERRORS * error < 1 / 3
