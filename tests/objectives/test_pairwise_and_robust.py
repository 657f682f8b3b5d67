"""``sigmoid``, ``ifm``, ``rince``: limits, extremes, published losses, ranks."""

from __future__ import annotations

import math

import naive
import pytest
import ranks
import torch
from device import DEVICE
from torch.nn.functional import normalize

from negplug import ContrastiveLoss, LearnedTemperature, make_objective

NEW = ["sigmoid()", "ifm()", "rince()", "rince(q=1, lam=1)"]


@pytest.mark.parametrize("temperature", [1.0, 0.02])
def test_without_a_margin_ifm_is_infonce(temperature):
    z = naive.embeddings(3, 6)
    ours = ContrastiveLoss(objective="ifm(epsilon=0)", temperature=temperature)(*z)
    theirs = naive.simclr(z, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-12


def test_rince_goes_to_infonce():
    z = naive.embeddings(2, 6)
    ours = ContrastiveLoss(objective="rince(q=1e-6, lam=1)", temperature=0.5)(*z)
    theirs = naive.simclr(z, 0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-4


@pytest.mark.parametrize("temperature", [0.02, 1e-3])
def test_where_its_exponent_is_large_rince_is_scaled_by_a_constant(temperature):
    """Against the definition in log space, in float64, with the constant taken out."""
    z = naive.embeddings(2, 5, spread=0.1)
    q, lam = 0.9, 0.3
    loss_fn = ContrastiveLoss(objective=f"rince(q={q}, lam={lam})", temperature=temperature)
    rows = normalize(torch.cat(z), dim=1)
    logits = rows @ rows.T / temperature
    row = torch.arange(10, device=DEVICE)
    own = logits[row, (row + 5) % 10]
    total = logits.masked_fill(torch.eye(10, dtype=torch.bool, device=DEVICE), -torch.inf)
    shift = max(0.0, q / temperature - 8)
    every = (q * (math.log(lam) + total.logsumexp(1)) - shift).exp() - (q * own - shift).exp()
    reference = every.mean() / q
    torch.testing.assert_close(loss_fn(*z), reference, rtol=1e-9, atol=0)
    wanted = naive.gradients(reference, z)
    assert naive.relative(naive.gradients(loss_fn(*z), z), wanted) < 1e-9
    assert shift > 0
    single = [view.detach().float().requires_grad_() for view in z]
    found = naive.gradients(loss_fn(*single), single)
    assert naive.relative(found.double(), wanted) < 0.05


EXTREMES = {
    "alike": lambda a, b: (a, a + 0 * b),
    "collapsed": lambda a, b: (a[:1].expand_as(a), a[:1].expand_as(a) + 0 * b),
    "opposed": lambda a, b: (a, 0 * b - a),
    "apart": lambda a, b: (a, b),
}


@pytest.mark.parametrize("objective", NEW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [10.0, 0.05, 1e-3])
def test_nothing_overflows(objective, dtype, temperature):
    loss_fn = ContrastiveLoss(objective=objective, temperature=temperature)
    for change in EXTREMES.values():
        z = [view.detach().to(dtype).requires_grad_() for view in naive.embeddings(2, 6)]
        loss = loss_fn(*change(*z))
        assert loss.isfinite()
        assert naive.gradients(loss, z).isfinite().all()


def siglip(queries, documents, scale, bias):
    """Zhai et al. 2023, algorithm 1."""
    logits = normalize(queries, dim=1) @ normalize(documents, dim=1).T * scale + bias
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=DEVICE) - 1
    return -torch.nn.functional.logsigmoid(signs * logits).sum() / len(logits)


@pytest.mark.parametrize("symmetric", [False, True])
def test_sigmoid_is_siglips(symmetric):
    z = naive.embeddings(2, 6)
    learned = LearnedTemperature(0.1).double()
    loss_fn = ContrastiveLoss(objective="sigmoid(bias=-3, learn=True)", temperature=learned)
    loss_fn = loss_fn.double().to(DEVICE)
    assert [name for name, _ in loss_fn.named_parameters()] == [
        "objective.bias",
        "temperature.logit_scale",
    ]
    ours = loss_fn.pairs(*z, symmetric=symmetric)
    scale, bias = (
        parameter.detach().clone().requires_grad_()
        for parameter in (learned.logit_scale, loss_fn.objective.bias)
    )
    theirs = siglip(*z, scale.exp(), bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    found = naive.gradients(ours, [*z, learned.logit_scale, loss_fn.objective.bias])
    assert naive.relative(found, naive.gradients(theirs, [*z, scale, bias])) < 1e-12


def on_a_rank(rank, world):
    cuts = {1: [0, 6], 4: [0, 1, 3, 4, 6]}[world]
    found = []
    for objective in NEW:
        z = [view.detach() for view in naive.embeddings(2, 6)]
        own = [view[cuts[rank] : cuts[rank + 1]].clone().requires_grad_() for view in z]
        loss = ContrastiveLoss("gather()", objective, temperature=0.2)(*own)
        found.append(torch.stack(torch.autograd.grad(loss, own)) / world)
    return found


def test_ranks_equal_one_process():
    together = zip(*ranks.run(on_a_rank, 4), strict=True)
    for expected, found in zip(on_a_rank(0, 1), together, strict=True):
        assert naive.relative(torch.cat(found, dim=1), expected) < 1e-9


@pytest.mark.parametrize("objective", NEW)
def test_draws_from_the_softmax_are_refused(objective):
    with pytest.raises(ValueError, match="needs negatives that estimate the denominator"):
        ContrastiveLoss("gumbel_max()", objective)(*naive.embeddings(2, 4))


def test_what_cannot_be_used_is_refused():
    for wrong in ("q=0", "lam=0", "q=1.5", "lam=-1"):
        with pytest.raises(ValueError, match=r"rince: (q|lam) must be in \[1e-6, 1\], got"):
            make_objective(f"rince({wrong})")
    for wrong in ("epsilon=-0.1", "alpha=-1"):
        with pytest.raises(ValueError, match=r"ifm: (epsilon|alpha) must be in"):
            make_objective(f"ifm({wrong})")
    with pytest.raises(TypeError, match="sigmoid: bias must be a number, got None"):
        make_objective("sigmoid(bias=None)")
    with pytest.raises(TypeError, match="sigmoid: learn must be True or False, got 1"):
        make_objective("sigmoid(learn=1)")
