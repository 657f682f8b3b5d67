"""``decoupled``, ``debiased``, ``relic``: exact against loops and Lightly, careful with gaps."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import naive
import pytest
import ranks
import torch

from negplug import ContrastiveBatch, ContrastiveLoss, Negatives, make_objective, make_sampler
from negplug.plugins.manager import plugins

SAMPLERS = [
    "in_batch()",
    "uniform(num_negatives=8)",
    "uniform(num_negatives=8, correction=True)",
    "uniform(num_negatives=8, shared=True, correction=True)",
]


def decoupled_loop(unit, positives, negatives, temperature, sigma=None):
    """Yeh et al., equation 6, for each anchor; the weights as 2 − e^{s/σ} / mean e^{s/σ}."""
    pairs = [(i, p) for i, own in enumerate(positives) for p in own]
    fixed = unit.detach()
    affinity = {(i, p): torch.exp(fixed[i] @ fixed[p] / (sigma or 1.0)) for i, p in pairs}
    average = sum(affinity.values()) / max(len(pairs), 1)
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        if not own or not others:
            losses.append(0.0 * unit[i].sum())
            continue
        push = sum(w * torch.exp(unit[i] @ k / temperature) for k, w in others)
        weights = [2 - affinity[i, p] / average if sigma else 1.0 for p in own]
        pull = sum(w * (unit[i] @ unit[p]) for w, p in zip(weights, own, strict=True))
        losses.append(torch.log(push) - pull / len(own) / temperature)
    return torch.stack(losses)


def debiased_loop(unit, positives, negatives, temperature, tau_plus=0.1, beta=0.0, held=None):
    """Chuang et al., equations 7 and 8, with the weights of HCL; `held` collects who is held."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        if not own or not others:
            losses.append(0.0 * unit[i].sum())
            continue
        number = sum(w for _, w in others)
        logits = [unit[i] @ k / temperature for k, _ in others]
        hardness = [w * torch.exp(beta * s) for s, (_, w) in zip(logits, others, strict=True)]
        mean_hardness = sum(hardness) / number
        total = sum(h * torch.exp(s) for h, s in zip(hardness, logits, strict=True)) / mean_hardness
        pulls = [torch.exp(unit[i] @ unit[p] / temperature) for p in own]
        estimate = (total - tau_plus * number * sum(pulls) / len(pulls)) / (1 - tau_plus)
        least = number * torch.exp(torch.tensor(-1 / temperature, dtype=unit.dtype))
        if held is not None:
            held.append("below 0" if estimate < 0 else "held" if estimate < least else "free")
        denominator = torch.maximum(estimate, least)
        losses.append(-sum(torch.log(p / (p + denominator)) for p in pulls) / len(pulls))
    return torch.stack(losses)


def relic_loop(unit, positives, negatives, temperature, alpha=1.0):
    """Mitrovic et al., equation 3; the second distribution is a constant."""
    losses = []
    for i, (own, others) in enumerate(zip(positives, negatives, strict=True)):
        if not own or not others:
            losses.append(0.0 * unit[i].sum())
            continue
        each = []
        for p in own:
            candidates = [(unit[p], 1.0), *others]
            s = torch.stack([unit[i] @ k / temperature + math.log(w) for k, w in candidates])
            t = torch.stack([unit[p] @ k / temperature + math.log(w) for k, w in candidates])
            first, second = s.log_softmax(0), t.detach().log_softmax(0)
            each.append(-first[0] + alpha * (first.exp() * (first - second)).sum())
        losses.append(sum(each) / len(each))
    return torch.stack(losses)


LOOPS = {
    "relic()": relic_loop,
    "relic(alpha=0)": partial(relic_loop, alpha=0.0),
    "relic(alpha=3.5)": partial(relic_loop, alpha=3.5),
    "decoupled()": decoupled_loop,
    "decoupled(sigma=0.5)": partial(decoupled_loop, sigma=0.5),
    "debiased()": debiased_loop,
    "debiased(tau_plus=0)": partial(debiased_loop, tau_plus=0.0),
    "debiased(tau_plus=0, beta=1)": partial(debiased_loop, tau_plus=0.0, beta=1.0),
    "debiased(tau_plus=0.05, beta=1)": partial(debiased_loop, tau_plus=0.05, beta=1.0),
    "debiased(tau_plus=0.9, beta=0.5)": partial(debiased_loop, tau_plus=0.9, beta=0.5),
}


def unit_rows(z):
    rows = torch.cat(z)
    return rows / rows.norm(dim=1, keepdim=True)


def assert_equal(ours, reference, inputs):
    """Values and the gradients of an uneven sum, in float64."""
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-12)
    uneven = torch.linspace(0.5, 1.5, len(ours), dtype=ours.dtype)
    got = naive.gradients((uneven * ours).sum(), inputs)
    assert naive.relative(got, naive.gradients((uneven * reference).sum(), inputs)) < 1e-11


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("views", [2, 3])
def test_value_and_gradient_equal_the_loop(objective, sampler, views):
    size = 8
    z = naive.embeddings(views, size)
    batch = ContrastiveBatch.from_views(tuple(z))
    drawn = make_sampler(sampler).sample(batch)
    weight = 1.0
    if "correction" in sampler:
        weight = views * size / 8 if "shared" in sampler else views * (size - 1) / 8
    rows = unit_rows(z)
    total = views * size
    positives = [[k for k in range(total) if k % size == i % size and k != i] for i in range(total)]
    if drawn.columns is not None:
        negatives = [[(rows[k], weight) for k in drawn.columns[i].tolist()] for i in range(total)]
    else:
        # The rows of a shared set are found again by value.
        legal = [k for k in range(total) if (drawn.pool == batch.keys[k]).all(1).any()]
        negatives = [[(rows[k], weight) for k in legal if (k - i) % size] for i in range(total)]
    ours = make_objective(objective)(batch, drawn, 0.4)
    assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), z)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_estimate_is_held_where_the_correction_is_too_large(beta):
    z = naive.embeddings(2, 8, spread=0.7)
    rows = unit_rows(z)
    batch = ContrastiveBatch.from_views(tuple(z))
    positives = [[(i + 8) % 16] for i in range(16)]
    negatives = [[(rows[k], 1.0) for k in range(16) if (k - i) % 8] for i in range(16)]
    held = []
    reference = debiased_loop(rows, positives, negatives, 1.0, 0.5, beta, held)
    assert set(held) == {"below 0", "held", "free"}
    drawn = make_sampler("in_batch()").sample(batch)
    ours = make_objective(f"debiased(tau_plus=0.5, beta={beta})")(batch, drawn, 1.0)
    assert_equal(ours, reference, z)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_debiased_without_correction_and_preference_is_infonce(sampler, views, temperature):
    z = naive.embeddings(views, 8)
    plain = ContrastiveLoss(sampler, "infonce(positives='each')", temperature, seed=0)(*z)
    ours = ContrastiveLoss(sampler, "debiased(tau_plus=0, beta=0)", temperature, seed=0)(*z)
    torch.testing.assert_close(ours, plain, rtol=1e-13, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(plain, z)) < 1e-13


def test_a_vanishing_preference_is_none():
    z = naive.embeddings(2, 8)
    ours = ContrastiveLoss(objective="debiased(beta=1e-9)", temperature=0.2)(*z)
    plain = ContrastiveLoss(objective="debiased()", temperature=0.2)(*z)
    torch.testing.assert_close(ours, plain, rtol=1e-7, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(plain, z)) < 1e-7


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (12, 1), (1, -1), (12, -1)])
def test_weights_of_every_shape_equal_the_loop(objective, chosen, shape):
    z = naive.embeddings(2, 6)
    rows, ids = unit_rows(z), torch.arange(12) % 6
    batch = ContrastiveBatch.from_views(tuple(z))
    generator = torch.Generator().manual_seed(3)
    columns = torch.stack([(i + torch.tensor([1, 2, 4, 9])) % 12 for i in range(12)])
    width = 4 if chosen else 12
    size = [width if extent == -1 else extent for extent in shape]
    weight = torch.randn(size, dtype=torch.float64, generator=generator)
    drawn = Negatives(
        batch.keys, batch.key_ids, columns=columns if chosen else None, log_weight=weight
    )
    w = weight.exp().expand(12, width)
    if chosen:
        negatives = [[(rows[k], w[i, m]) for m, k in enumerate(columns[i])] for i in range(12)]
    else:
        negatives = [[(rows[k], w[i, k]) for k in range(12) if ids[k] != ids[i]] for i in range(12)]
    positives = [[(i + 6) % 12] for i in range(12)]
    ours = make_objective(objective)(batch, drawn, 0.4)
    assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), z)


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("weighted", [(False, False), (True, False), (False, True)])
def test_tiers_with_and_without_weights_equal_the_loop(objective, weighted):
    z = naive.embeddings(3, 6)
    rows = unit_rows(z)
    batch = ContrastiveBatch.from_views(tuple(z[:2]))
    # The batch, and a pool of unknown rows that are negatives of every anchor.
    weights = [torch.full((1, 1), w, dtype=torch.float64).log() for w in (1 / 3, 3.0)]
    tiers = [(batch.keys, batch.key_ids), (rows[12:], torch.full((6,), -1))]
    first, second = (
        Negatives(*tier, log_weight=weight if given else None)
        for tier, weight, given in zip(tiers, weights, weighted, strict=True)
    )
    w = [3.0 ** (n * 2 - 1) if given else 1.0 for n, given in enumerate(weighted)]
    negatives = [
        [(rows[k], w[0]) for k in range(12) if (k - i) % 6] + [(row, w[1]) for row in rows[12:]]
        for i in range(12)
    ]
    positives = [[(i + 6) % 12] for i in range(12)]
    ours = make_objective(objective)(batch, replace(first, others=(second,)), 0.4)
    assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), z)


@pytest.mark.parametrize("objective", LOOPS)
def test_ragged_positives_and_anchors_that_lack_one_or_the_other(objective):
    (z,) = naive.embeddings(1, 9)
    rows = unit_rows([z])
    ids = [0, 1, 0, 2, 1, 1, 0, 3, 4]
    positives = [[k for k in range(9) if k != i and ids[k] == ids[i]] for i in range(9)]
    padded = [own + [-1] * (2 - len(own)) for own in positives]
    batch = ContrastiveBatch(rows, rows, *2 * [torch.tensor(ids)], torch.tensor(padded))
    columns = torch.tensor([[(i + 3) % 9, (i + 7) % 9] for i in range(9)])
    mask = torch.ones(9, 2, dtype=torch.bool)
    mask[1] = mask[7] = False  # one anchor has only positives, one has nothing
    mask[4, 0] = False
    drawn = Negatives(rows, batch.key_ids, columns, mask)
    negatives = [
        [(rows[k], 1.0) for k, used in zip(columns[i], mask[i], strict=True) if used]
        for i in range(9)
    ]
    ours = make_objective(objective)(batch, drawn, 0.4)
    assert ours[[1, 3, 7, 8]].tolist() == [0.0] * 4
    assert (ours[[0, 2, 4, 5, 6]] != 0).all()
    assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), [z])


@pytest.mark.parametrize("objective", LOOPS)
def test_without_any_negative_or_any_positive_the_loss_is_zero_and_keeps_its_graph(objective):
    z = naive.embeddings(2, 1)
    alone = ContrastiveLoss(objective=objective)(*z)
    (z0,) = naive.embeddings(1, 5)
    rows = unit_rows([z0])
    ids = torch.arange(5)
    batch = ContrastiveBatch(rows, rows, ids, ids, torch.full((5, 1), -1))
    unpaired = make_objective(objective)(batch, Negatives(rows, ids), 0.1).sum()
    assert unpaired.item() == 0
    with torch.autograd.set_detect_anomaly(True):
        assert naive.gradients(unpaired, [z0]).abs().sum() == 0
    assert alone.item() == 0
    assert naive.gradients(alone, z).abs().sum() == 0


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02, 1e-3])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_no_temperature_breaks_float32(objective, sampler, temperature, spread):
    z = [v.detach().float().requires_grad_() for v in naive.embeddings(2, 12, spread=spread)]
    loss = ContrastiveLoss(sampler, objective, temperature)(*z)
    assert loss.isfinite()
    assert naive.gradients(loss, z).isfinite().all()


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("temperature", [0.1, 1e-3])
def test_collapsed_embeddings_break_nothing(objective, temperature):
    z = [torch.ones(6, 4, requires_grad=True) for _ in range(2)]
    loss = ContrastiveLoss("in_batch()", objective, temperature)(*z)
    assert loss.isfinite()
    assert naive.gradients(loss, z).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1e-3])
def test_gradients_are_finite_around_the_point_where_the_estimate_is_zero(dtype, temperature):
    # R = N e^{s/τ} equals τ⁺ N e^{s⁺/τ} at s⁺ = s + τ log 2: 401 anchors, a rounding step apart.
    step = torch.finfo(dtype).eps / 4
    similarity = 0.5 + temperature * torch.log(torch.tensor(2.0, dtype=dtype))
    similarity = similarity + step * torch.arange(-200, 201, dtype=dtype)
    keys = torch.stack([similarity, (1 - similarity**2).sqrt()], dim=1).requires_grad_()
    anchors = torch.tensor([[1.0, 0.0]], dtype=dtype).repeat(401, 1).requires_grad_()
    pool = torch.tensor([[0.5, 0.75**0.5]], dtype=dtype)
    ids = torch.arange(401)
    batch = ContrastiveBatch(anchors, keys, ids, ids, ids[:, None])
    drawn = Negatives(pool, torch.tensor([-1]))
    losses = make_objective("debiased(tau_plus=0.5)")(batch, drawn, temperature)
    assert losses.isfinite().all()
    assert naive.gradients(losses.sum(), [anchors, keys]).isfinite().all()


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_lose_nothing_more(objective, dtype):
    z = [v.detach().to(dtype).requires_grad_() for v in naive.embeddings(2, 12)]
    loss = ContrastiveLoss("in_batch()", objective, 0.02)(*z)
    assert loss.dtype == torch.float32
    gradient = naive.gradients(loss, z)
    assert gradient.isfinite().all()
    exact = [v.detach().double().requires_grad_() for v in z]
    wanted = ContrastiveLoss("in_batch()", objective, 0.02)(*exact)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=1e-4)
    assert naive.relative(gradient.double(), naive.gradients(wanted, exact)) < 1e-2


# Lightly copies a tensor with torch.tensor(), of which torch disapproves.
copies = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")


def lightly_loss(sigma, **kwargs):
    losses = pytest.importorskip("lightly.loss")
    if sigma is None:
        return losses.DCLLoss(**kwargs)
    return losses.DCLWLoss(sigma=sigma, **kwargs)


@copies
@pytest.mark.parametrize("temperature", [0.5, 0.07])
@pytest.mark.parametrize("sigma", [None, 0.5, 0.1])
def test_decoupled_is_lightlys(sigma, temperature):
    z = naive.embeddings(2, 16)
    theirs = lightly_loss(sigma, temperature=temperature)(*z)
    ours = ContrastiveLoss(objective=f"decoupled(sigma={sigma})", temperature=temperature)(*z)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-10


def both_on_a_rank(rank, world, theirs, objective):
    z = naive.embeddings(2, 6, seed=rank)
    gathered = ContrastiveBatch.from_views(tuple(z)).gathered()
    ours = ContrastiveLoss(objective=objective, temperature=0.2).contrast(gathered)
    return [(loss.detach(), naive.gradients(loss, z)) for loss in (ours, theirs(*z))]


@copies
@pytest.mark.parametrize("sigma", [None, 0.5])
def test_decoupled_is_lightlys_over_two_ranks(sigma):
    theirs = lightly_loss(sigma, temperature=0.2, gather_distributed=True)
    results = ranks.run(both_on_a_rank, 2, theirs, f"decoupled(sigma={sigma})")
    for (ours, our_gradient), (wanted, their_gradient) in results:
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=0)
        assert naive.relative(our_gradient, their_gradient) < 1e-10
    assert results[0][0][0] != results[1][0][0]


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("decoupled(sigma=0)", ValueError, "decoupled: sigma must be above 0; leave it out"),
        ("decoupled(sigma=-1)", ValueError, "decoupled: sigma must be in"),
        ("decoupled(sigma='vmf')", TypeError, "decoupled: sigma must be a number, got 'vmf'"),
        ("decoupled(sigma=True)", TypeError, "decoupled: sigma must be a number, got True"),
        ("debiased(tau_plus=1)", ValueError, r"debiased: tau_plus must be in \[0, 1\), got 1"),
        ("debiased(tau_plus=-0.1)", ValueError, "debiased: tau_plus must be in"),
        ("debiased(tau_plus=None)", TypeError, "debiased: tau_plus must be a number, got None"),
        ("debiased(beta=-1)", ValueError, r"debiased: beta must be in \[0, inf\), got -1"),
        ("debiased(beta=1e999)", ValueError, "debiased: beta must be in .* got inf"),
        ("relic(alpha=-1)", ValueError, r"relic: alpha must be in \[0, inf\), got -1"),
        ("relic(alpha='1')", TypeError, "relic: alpha must be a number, got '1'"),
        ("debiased(beta=False)", TypeError, "debiased: beta must be a number, got False"),
    ],
)
def test_bad_arguments(expression, error, message):
    with pytest.raises(error, match=message):
        make_objective(expression)


@pytest.mark.parametrize("objective", ["debiased", "relic"])
def test_draws_from_the_softmax_are_refused(objective):
    batch = ContrastiveBatch.from_views(tuple(naive.embeddings(2, 4)))
    drawn = replace(make_sampler("in_batch()").sample(batch), estimator="posterior")
    with pytest.raises(ValueError, match=rf"{objective}\(\): needs negatives that estimate"):
        make_objective(f"{objective}()")(batch, drawn, 0.1)


@pytest.mark.parametrize(
    ("objective", "paper"),
    [
        ("decoupled", "arXiv:2110.06848"),
        ("debiased", "arXiv:2007.00224"),
        ("relic", "arXiv:2010.07922"),
    ],
)
def test_listed_with_its_paper(objective, paper):
    spec = plugins().lookup("objective", objective).spec
    assert spec.summary
    assert paper in spec.paper
    assert str(make_objective(f"{objective}()")) == f"{objective}()"
    assert str(spec.factory()).startswith(f"{objective}(")
