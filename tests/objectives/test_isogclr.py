"""``isogclr`` and γ's schedule: against loops over epochs, on ranks, through a restart."""

from __future__ import annotations

import io
import math

import naive
import pytest
import ranks
import torch
from device import DEVICE

from negplug import ContrastiveLoss, LearnedTemperature, make_objective

N, WIDTH, GAMMA, RHO, ETA, BETA, START = 12, 6, 0.3, 0.4, 0.5, 0.7, 0.2
LOW, HIGH = 0.05, 0.7
BATCHES = [(0, 1, 2, 3), (2, 3, 4, 5), (0, 5, 6, 7), (1, 2, 3, 4), (8, 9, 0, 1), (11, 0, 2, 7)]
OBJECTIVE = (
    f"isogclr(gamma={GAMMA}, rho={RHO}, eta={ETA}, beta={BETA}, tau_min={LOW}, tau_max={HIGH})"
)


def views(step, indexes):
    """Two views of some samples, other augmentations in each step."""
    generator = torch.Generator().manual_seed(step)
    base = torch.randn(N, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(2, N, WIDTH, dtype=torch.float64, generator=generator)
    return [(base + 0.4 * n)[list(indexes)].to(DEVICE).requires_grad_() for n in noise]


def loop(step, indexes, kept):
    """Qiu et al., algorithm 1; `kept` maps (sample, view) to u, τ and v, and is changed."""
    z = views(step, indexes)
    unit = [[row / row.norm() for row in view] for view in z]
    value, surrogate = 0.0, 0.0
    for v in range(2):
        for b, sample in enumerate(indexes):
            past, tau, slope = kept.get((sample, v), (None, START, 0.0))
            anchor = unit[v][b]
            others = [unit[w][c] for w in range(2) for c in range(len(indexes)) if c != b]
            similarities = torch.stack([anchor @ other for other in others])
            g = torch.exp(similarities / tau).mean()
            u = g.item() if past is None else (1 - GAMMA) * past + GAMMA * g.item()
            own = anchor @ unit[1 - v][b]
            value += tau * (math.log(u) + RHO) - own.item()
            surrogate = surrogate + tau * g / u - own
            weights = (similarities / tau).softmax(0).detach()
            expected = (weights * similarities.detach()).sum().item()
            gradient = math.log(u) + RHO - g.item() / u * expected / tau
            slope = (1 - BETA) * slope + BETA * gradient
            kept[sample, v] = u, min(max(tau - ETA * slope, LOW), HIGH), slope
    anchors = 2 * len(indexes)
    return value / anchors, naive.gradients(surrogate / anchors, z)


def step_of(loss_fn, step, indexes):
    z = views(step, indexes)
    loss = loss_fn(*z, indexes=torch.tensor(indexes, device=DEVICE))
    loss.backward()
    return loss.detach(), torch.cat([view.grad.flatten() for view in z])


def saved(loss_fn):
    return loss_fn.state_dict()["objective.averages._extra_state"]["values"]


def new():
    return ContrastiveLoss(objective=OBJECTIVE, temperature=START)


def test_equals_a_loop_over_the_steps():
    loss_fn, kept = new(), {}
    for step, indexes in enumerate(BATCHES):
        value, gradient = step_of(loss_fn, step, indexes)
        expected, expected_gradient = loop(step, indexes, kept)
        assert abs(value - expected) < 1e-11 * abs(expected)
        assert naive.relative(gradient, expected_gradient) < 1e-11
    table = saved(loss_fn)
    for (sample, view), (u, tau, slope) in kept.items():
        found = [float(table[name][view, sample]) for name in ("log_u", "tau", "slope")]
        assert found == pytest.approx([math.log(u), tau, slope], rel=1e-10)
    reached = {tau for _, tau, _ in kept.values()}
    assert {LOW, HIGH} & reached  # the ends of the range
    assert len(reached) > 3


def test_temperatures_that_do_not_learn_are_sogclrs():
    """Up to the factor τ: F is over τ there."""
    still = ContrastiveLoss(objective="isogclr(gamma=0.3, eta=0)", temperature=START)
    other = ContrastiveLoss(objective="sogclr(gamma=0.3)", temperature=START)
    for step, indexes in enumerate(BATCHES):
        _, gradient = step_of(still, step, indexes)
        _, expected = step_of(other, step, indexes)
        assert naive.relative(gradient, START * expected) < 1e-11


def test_a_resumed_run_equals_an_uninterrupted_one():
    whole, first, second = new(), new(), new()
    for step, indexes in enumerate(BATCHES[:3]):
        step_of(whole, step, indexes)
        step_of(first, step, indexes)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for step, indexes in enumerate(BATCHES[3:], 3):
        for a, b in zip(step_of(whole, step, indexes), step_of(second, step, indexes), strict=True):
            assert torch.equal(a, b)
    for name, value in saved(whole).items():
        assert torch.equal(value, saved(second)[name])
    other = ContrastiveLoss(objective=OBJECTIVE.replace("rho=0.4", "rho=0.3"))
    with pytest.raises(ValueError, match=r"was saved with rho=0\.4"):
        other.load_state_dict(whole.state_dict())


def test_an_evaluation_leaves_the_temperatures_alone():
    loss_fn = new()
    step_of(loss_fn, 0, BATCHES[0])
    before = saved(loss_fn)
    with torch.no_grad():
        assert loss_fn(*views(7, (0, 1, 2))).isfinite()  # of another data set: no indexes
    assert all(torch.equal(before[name], value) for name, value in saved(loss_fn).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low", [0.05, 1e-3])
def test_nothing_overflows(dtype, low):
    loss_fn = ContrastiveLoss(objective=f"isogclr(tau_min={low}, rho=9, eta=0.1)", temperature=low)
    for step, indexes in enumerate(BATCHES):
        z = [view.detach().to(dtype).requires_grad_() for view in views(step, indexes)]
        loss = loss_fn(*z, indexes=torch.tensor(indexes, device=DEVICE))
        assert loss.isfinite()
        assert naive.gradients(loss, z).isfinite().all()
        loss.backward()


def test_an_anchor_without_negatives_leaves_nothing():
    loss_fn = new()
    loss, gradient = step_of(loss_fn, 0, (3,))
    assert loss == 0
    assert gradient.abs().sum() == 0
    assert not saved(loss_fn)["tau"].any()


OBJECTIVES = [OBJECTIVE, "sogclr(gamma=0.3, decay_steps=4)"]


def on_a_rank(rank, world):
    """The gradients of some steps over gathered keys, and what is kept."""
    found = []
    for objective in OBJECTIVES:
        loss_fn = ContrastiveLoss("gather()", objective, temperature=START)
        for step, indexes in enumerate(BATCHES[:4]):
            own = list(range(4))[rank::world]
            z = [view.detach()[own].requires_grad_() for view in views(step, indexes)]
            loss_fn(*z, indexes=torch.tensor(indexes)[own]).backward()
            found.append(torch.stack([view.grad for view in z]) / world)
        found.append(torch.stack(list(saved(loss_fn).values())))
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_equal_one_process(world):
    together = zip(*ranks.run(on_a_rank, world), strict=True)
    for expected, found in zip(on_a_rank(0, 1), together, strict=True):
        if expected.shape[1] == 4:  # gradients, and else tables
            joined = torch.empty_like(expected)
            for rank, part in enumerate(found):
                joined[:, rank::world] = part
            assert naive.relative(joined, expected) < 1e-9
        else:
            for table in found:
                torch.testing.assert_close(table, expected, rtol=1e-10, atol=1e-12)


def test_gamma_falls_by_a_cosine():
    """Frozen embeddings: log u is what the shares of the steps make of it."""
    loss_fn = ContrastiveLoss(objective="sogclr(gamma=0.3, decay_steps=4)", temperature=START)
    u = None
    for step in range(6):
        z = views(step, BATCHES[0])
        loss_fn(*z, indexes=torch.tensor(BATCHES[0], device=DEVICE)).backward()
        rows = torch.nn.functional.normalize(torch.cat(z), dim=1).detach()
        g = (rows[0] @ rows[[1, 2, 3, 5, 6, 7]].T / START).exp().mean()
        share = 0.3 + 0.7 * (1 + math.cos(math.pi * min(step / 4, 1))) / 2
        u = g if u is None else (1 - share) * u + share * g
        found = saved(loss_fn)["log_u"][0, 0]
        torch.testing.assert_close(found, u.log(), rtol=1e-11, atol=0)
    other = ContrastiveLoss(objective="sogclr(gamma=0.3, decay_steps=5)")
    with pytest.raises(ValueError, match="was saved with decay_steps=4"):
        other.load_state_dict(loss_fn.state_dict())


def test_what_cannot_be_used_is_refused():
    for wrong in ("rho=-1", "eta=-0.1", "tau_min=0", "tau_min=0.5, tau_max=0.1"):
        with pytest.raises(ValueError, match=r"isogclr: (rho|eta|tau_min|tau_max) must be in"):
            make_objective(f"isogclr({wrong})")
    for wrong in ("beta=0", "beta=1.5"):
        with pytest.raises(ValueError, match=r"isogclr: beta must be in \(0, 1\]"):
            make_objective(f"isogclr({wrong})")
    with pytest.raises(ValueError, match="sogclr: decay_steps must be at least 1, got 0"):
        make_objective("sogclr(decay_steps=0)")
    with pytest.raises(ValueError, match="isogclr: needs the data set index of every sample"):
        new()(*views(0, (0, 1)))
    both = ContrastiveLoss(objective=OBJECTIVE, temperature=LearnedTemperature().to(DEVICE))
    with pytest.raises(ValueError, match="isogclr: learns a temperature for each sample"):
        both(*views(0, (0, 1)), indexes=torch.tensor([0, 1], device=DEVICE))
