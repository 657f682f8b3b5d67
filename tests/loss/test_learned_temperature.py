"""A temperature that learns: its gradient is exact, whatever samples and whatever computes."""

from __future__ import annotations

import copy
import math

import naive
import pytest
import torch
from device import DEVICE
from objective_loops import LOOPS, unit_rows

from negplug import ContrastiveBatch, ContrastiveLoss, LearnedTemperature, Rows
from negplug.contract.negatives import Negatives
from negplug.samplers.in_batch import InBatch

TAU = 0.4


class WithOthers(InBatch):
    """The batch, and a pool of rows that nobody learns."""

    def __init__(self, rows):
        super().__init__()
        self.others = rows

    def sample(self, batch):
        return batch.all_keys(), Negatives(Rows.unknown(self.others))


def gradients(loss, z, tau):
    *rows, slope = torch.autograd.grad(loss, [*z, tau], retain_graph=True)
    return torch.cat([each.flatten() for each in rows]), slope


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("mixed", [False, True])
def test_the_gradient_is_that_of_the_loop(objective, mixed):
    """Of anchors that are keys, which carry the root of the factor, and of others."""
    size, total = 6, 12
    z = naive.embeddings(2, size)
    rows = unit_rows(z)
    past = torch.nn.functional.normalize(naive.embeddings(1, 5, seed=3)[0].detach(), dim=1)
    positives = [[(i + size) % total] for i in range(total)]
    negatives = [[(rows[k], 1.0) for k in range(total) if (k - i) % size] for i in range(total)]
    if mixed:
        negatives = [each + [(row, 1.0) for row in past] for each in negatives]
    tau = torch.tensor(TAU, dtype=torch.float64, device=DEVICE, requires_grad=True)
    reference = LOOPS[objective](rows, positives, negatives, tau).mean()
    ours = ContrastiveLoss(WithOthers(past) if mixed else "in_batch()", objective).contrast(
        ContrastiveBatch.from_views(tuple(z)), temperature=tau
    )
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=0)
    (found, slope), (wanted, exact) = (gradients(loss, z, tau) for loss in (ours, reference))
    assert naive.relative(found, wanted) < 1e-11
    assert abs(slope - exact) < 1e-11 * abs(exact)
    assert exact != 0


@pytest.mark.parametrize(
    "sampler",
    [
        "uniform(num_negatives=4)",
        "uniform(num_negatives=4, shared=True, correction=True)",
        "hard(num_negatives=4)",
        "in_batch(views='cross')",
        "synthetic(num_mixed=3, num_hardest=4)",
        "queue(size=40)",
        "memory_bank()",
    ],
)
@pytest.mark.parametrize("objective", ["infonce()", "sogclr(gamma=0.5)"])
def test_the_gradient_is_the_slope_of_the_loss(sampler, objective):
    """By finite differences; of sogclr, whose value is no integral of its gradient, in step 0."""
    z = [naive.embeddings(2, 8, seed=seed) for seed in range(2)]
    remembers = sampler in ("queue(size=40)", "memory_bank()")
    steps = 2 if remembers else 1
    if remembers and "sogclr" in objective:
        sampler = f"hierarchical(in_batch(), {sampler})"
        steps = 1

    def trained(tau):
        loss_fn = ContrastiveLoss(sampler, objective, seed=1)
        for views in z[:steps]:
            loss = loss_fn.contrast(
                ContrastiveBatch.from_views(tuple(views), torch.arange(8, device=DEVICE)),
                temperature=tau,
            )
            found = torch.autograd.grad(loss, tau, retain_graph=True)[0] if tau.requires_grad else 0
            loss.backward()
        return loss.detach(), found

    def at(tau):
        return torch.tensor(tau, dtype=torch.float64, device=DEVICE)

    _, slope = trained(at(TAU).requires_grad_())
    step = 1e-5
    exact = (trained(at(TAU + step))[0] - trained(at(TAU - step))[0]) / (2 * step)
    assert abs(slope - exact) < 1e-6 * abs(exact)


def test_the_least_value_of_a_debiased_estimate_depends_on_it_too():
    """All negatives are far off, so that every anchor is at the least value."""
    near = torch.tensor([[1.0, 0.1], [-1.0, 0.1]], dtype=torch.float64, device=DEVICE)
    z = (near, near + 0.1)

    def value(tau):
        loss_fn = ContrastiveLoss("in_batch()", "debiased(tau_plus=0.5)")
        return loss_fn.contrast(ContrastiveBatch.from_views(z), temperature=tau)

    tau = torch.tensor(TAU, dtype=torch.float64, device=DEVICE, requires_grad=True)
    (slope,) = torch.autograd.grad(value(tau), tau)
    exact = (value(TAU + 1e-5) - value(TAU - 1e-5)) / 2e-5
    least = math.log(2) - 1 / TAU
    positive = torch.nn.functional.cosine_similarity(*z).mean() / TAU
    assert value(TAU).item() == pytest.approx(math.log1p(math.exp(least - positive)), rel=0.1)
    assert slope.item() == pytest.approx(exact.item(), rel=1e-6)


def test_a_parameter_is_clips():
    learned = LearnedTemperature(0.07)
    assert learned.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    loss_fn = ContrastiveLoss(temperature=learned).to(DEVICE)
    assert [name for name, _ in loss_fn.named_parameters()] == ["temperature.logit_scale"]
    z = naive.embeddings(2, 6)
    loss = loss_fn(*z)
    scale = learned.logit_scale.detach().clone().requires_grad_()
    (by_scale,) = torch.autograd.grad(loss, learned.logit_scale)
    (exact,) = torch.autograd.grad(naive.simclr(z, torch.exp(-scale)), scale)
    torch.testing.assert_close(by_scale, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("beyond", "kept"), [(9.0, math.log(100)), (-3.0, 0.0)])
def test_a_step_that_leaves_the_range_is_set_back(beyond, kept):
    """Between two calls of one step too, of which the first has yet to be differentiated."""
    learned = LearnedTemperature().double()
    loss_fn = ContrastiveLoss(temperature=learned).to(DEVICE)
    learned.logit_scale.data.fill_(beyond)
    z = naive.embeddings(2, 6)
    loss_fn.pairs(*z).backward()
    assert learned.logit_scale.item() == pytest.approx(kept)
    assert learned.logit_scale.grad != 0
    torch.testing.assert_close(loss_fn(*z), naive.simclr(z, math.exp(-kept)))


def test_it_learns_and_resumes():
    def trained(loss_fn, steps):
        optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.05)
        for step in steps:
            optimizer.zero_grad()
            loss_fn(*naive.embeddings(2, 8, seed=step, spread=0.2)).backward()
            optimizer.step()
        return loss_fn.temperature.logit_scale.item()

    def new():
        return ContrastiveLoss("queue(size=40)", temperature=LearnedTemperature(0.5)).to(DEVICE)

    loss_fn = new()
    before = trained(loss_fn, range(3))
    assert before > math.log(2)  # alike views want a sharper softmax
    resumed = new()
    resumed.load_state_dict(copy.deepcopy(loss_fn.state_dict()))
    assert trained(resumed, range(3, 5)) == trained(loss_fn, range(3, 5))


def test_without_gradient_it_is_a_number():
    z = naive.embeddings(2, 6)
    loss_fn = ContrastiveLoss(temperature=LearnedTemperature(0.2).double()).to(DEVICE)
    with torch.no_grad():
        torch.testing.assert_close(loss_fn(*z), naive.simclr(z, 0.2))


def test_steps_need_no_value():
    loss_fn = ContrastiveLoss(temperature=LearnedTemperature()).to("meta")
    for _ in range(3):
        z = [view.detach().to("meta").requires_grad_() for view in naive.embeddings(2, 6)]
        loss_fn(*z).backward()


def test_a_state_of_another_temperature_is_refused_by_name():
    learns, is_constant = ContrastiveLoss(temperature=LearnedTemperature()), ContrastiveLoss()
    for one, other in ((learns, is_constant), (is_constant, learns)):
        with pytest.raises(ValueError, match=r"temperature.logit_scale[^;]*; .* or temperature"):
            one.load_state_dict(other.state_dict())


def test_what_cannot_be_used_is_refused():
    with pytest.raises(TypeError, match="LearnedTemperature: initial must be a number, got '1'"):
        LearnedTemperature("1")
    with pytest.raises(ValueError, match=r"smallest ≤ initial ≤ largest, got smallest=0\.01, ini"):
        LearnedTemperature(2.0)
    with pytest.raises(TypeError, match=r"is a constant here; detach it, or give Contr"):
        ContrastiveLoss(temperature=torch.nn.Parameter(torch.tensor(0.1)))
    loss_fn = ContrastiveLoss(temperature=LearnedTemperature()).to(DEVICE)
    loss_fn.temperature.logit_scale.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="the learned temperature is NaN; the optimizer has"):
        loss_fn(*naive.embeddings(2, 4))
    with pytest.raises(TypeError, match="temperature must be a number"):
        ContrastiveLoss().contrast(
            ContrastiveBatch.from_views(tuple(naive.embeddings(2, 4))), temperature="0.1"
        )


def test_a_compiled_model_breaks_its_graph_there():
    torch._dynamo.reset()
    loss_fn = ContrastiveLoss(temperature=LearnedTemperature(0.2).double()).to(DEVICE)
    z = naive.embeddings(2, 6)
    compiled = torch.compile(lambda *views: loss_fn(*views) * 2, backend="eager")
    (by_scale,) = torch.autograd.grad(compiled(*z), loss_fn.temperature.logit_scale)
    (exact,) = torch.autograd.grad(2 * loss_fn(*z), loss_fn.temperature.logit_scale)
    torch.testing.assert_close(by_scale, exact)
