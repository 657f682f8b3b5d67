"""``sogclr``: against a loop over epochs, on ranks, through a restart, and when data is missing."""

from __future__ import annotations

import io
import math

import naive
import pytest
import ranks
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from negplug import ContrastiveBatch, ContrastiveLoss, make_objective
from negplug.contract.dataset import DatasetAccess
from negplug.objectives import sogclr
from negplug.objectives.sogclr import SogCLR

N, WIDTH, GAMMA, TAU = 12, 6, 0.3, 0.2
BATCHES = [(0, 1, 2, 3), (2, 3, 4, 5), (0, 5, 6, 7), (1, 2, 3, 4), (8, 9, 0, 1), (11, 0, 2, 7)]
"""Some batches are new to the averages, some are partly, some not at all."""


def views(step, indexes):
    """Two views of some samples, other augmentations in each step."""
    generator = torch.Generator().manual_seed(step)
    base = torch.randn(N, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(2, N, WIDTH, dtype=torch.float64, generator=generator)
    return [(base + 0.4 * n)[list(indexes)].requires_grad_() for n in noise]


def loop(step, indexes, averages, temperature=TAU, gamma=GAMMA):
    """One step, anchor by anchor; `averages` maps (sample, view) to u and is changed."""
    z = views(step, indexes)
    unit = [[row / row.norm() for row in view] for view in z]
    total, new = 0.0, {}
    for v in range(2):
        for b, sample in enumerate(indexes):
            others = [unit[w][c] for w in range(2) for c in range(len(indexes)) if c != b]
            terms = [torch.exp(unit[v][b] @ other / temperature) for other in others]
            mean = sum(terms) / len(terms)
            u = mean.detach()
            if (sample, v) in averages:
                u = (1 - gamma) * averages[sample, v] + gamma * u
            new[sample, v] = u
            push = mean / u
            loss = push - push.detach() + torch.log(u * len(terms))
            total = total + loss - unit[v][b] @ unit[1 - v][b] / temperature
    averages.update(new)
    total = total / (2 * len(indexes))
    return total.detach(), naive.gradients(total, z)


def step_of(loss_fn, step, indexes):
    z = views(step, indexes)
    loss = loss_fn(*z, indexes=torch.tensor(indexes))
    loss.backward()
    return loss.detach(), torch.cat([view.grad.flatten() for view in z])


@pytest.mark.parametrize("gamma", [0.3, 0.9, 1])
def test_equals_a_loop_over_the_steps(gamma):
    loss_fn = ContrastiveLoss(objective=f"sogclr(gamma={gamma})", temperature=TAU)
    averages = {}
    for step, indexes in enumerate(BATCHES):
        value, gradient = step_of(loss_fn, step, indexes)
        expected, expected_gradient = loop(step, indexes, averages, gamma=gamma)
        assert abs(value - expected) < 1e-12 * abs(expected)
        assert naive.relative(gradient, expected_gradient) < 1e-12


def test_a_first_visit_and_no_memory_at_all_are_decoupled():
    decoupled = ContrastiveLoss(objective="decoupled()", temperature=TAU)
    fresh = ContrastiveLoss(objective="sogclr(gamma=0.01)", temperature=TAU)
    forgetful = ContrastiveLoss(objective="sogclr(gamma=1)", temperature=TAU)
    for step, indexes in enumerate(BATCHES):
        wanted = step_of(decoupled, step, indexes)
        losses = [forgetful] if step else [forgetful, fresh]
        for value, gradient in (step_of(loss, step, indexes) for loss in losses):
            assert abs(value - wanted[0]) < 1e-12
            assert naive.relative(gradient, wanted[1]) < 1e-12


def test_the_average_converges_to_the_gradient_over_the_whole_data_set():
    """With frozen embeddings and a small γ the mean gradient is that of the global loss.

    In-batch negatives at the same batch size stay biased.
    """
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(24, WIDTH, dtype=torch.float64, generator=generator)
    table = [
        (base + 0.3 * torch.randn(base.shape, dtype=torch.float64, generator=generator))
        for _ in range(2)
    ]

    def mean_gradient(objective, epochs, skipped):
        leaves = [view.clone().requires_grad_() for view in table]
        loss_fn = ContrastiveLoss(objective=objective, temperature=TAU)
        for epoch in range(epochs):
            if epoch == skipped:
                leaves = [view.clone().requires_grad_() for view in table]
            for part in torch.randperm(24, generator=generator).split(4):
                loss_fn(*(view[part] for view in leaves), indexes=part).backward()
        return torch.cat([leaf.grad.flatten() for leaf in leaves]) / 6 / (epochs - skipped)

    leaves = [view.clone().requires_grad_() for view in table]
    exact = naive.gradients(
        ContrastiveLoss(objective="decoupled()", temperature=TAU)(*leaves), leaves
    )
    assert naive.relative(mean_gradient("decoupled()", 300, 0), exact) > 0.2
    assert naive.relative(mean_gradient("sogclr(gamma=0.02)", 600, 300), exact) < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.01, 1e-3])
def test_no_temperature_overflows(temperature, dtype):
    loss_fn = ContrastiveLoss(objective="sogclr()", temperature=temperature)
    for step, indexes in enumerate(BATCHES):
        z = [view.detach().to(dtype).requires_grad_() for view in views(step, indexes)]
        loss = loss_fn(*z, indexes=torch.tensor(indexes))
        loss.backward()
        assert loss.isfinite()
        assert all(view.grad.isfinite().all() for view in z)


def test_an_evaluation_is_decoupled_and_leaves_the_averages_alone():
    loss_fn = ContrastiveLoss(objective="sogclr()", temperature=TAU)
    for step, indexes in enumerate(BATCHES):
        step_of(loss_fn, step, indexes)
    before = saved(loss_fn)
    z = views(7, (0, 1, 2))
    with torch.no_grad():
        value = loss_fn(*z)  # of another data set: no indexes
        wanted = ContrastiveLoss(objective="decoupled()", temperature=TAU)(*z)
    assert torch.allclose(value, wanted, rtol=1e-12)
    assert torch.equal(saved(loss_fn), before)


def saved(loss_fn):
    """The logarithms of the averages in a checkpoint."""
    return loss_fn.state_dict()["objective.averages._extra_state"]["values"]["log_u"]


def test_a_resumed_run_equals_an_uninterrupted_one():
    whole = ContrastiveLoss(objective="sogclr(gamma=0.3)", temperature=TAU)
    first = ContrastiveLoss(objective="sogclr(gamma=0.3)", temperature=TAU)
    for step, indexes in enumerate(BATCHES[:3]):
        step_of(whole, step, indexes)
        step_of(first, step, indexes)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ContrastiveLoss(objective="sogclr(gamma=0.3)", temperature=TAU)
    second.load_state_dict(torch.load(file, weights_only=True))
    for step, indexes in enumerate(BATCHES[3:], 3):
        for a, b in zip(step_of(whole, step, indexes), step_of(second, step, indexes), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(saved(whole), saved(second))


def test_calls_of_one_step_have_averages_of_their_own():
    loss_fn = ContrastiveLoss(objective="sogclr(gamma=0.3)", temperature=TAU)
    alone = [ContrastiveLoss(objective="sogclr(gamma=0.3)", temperature=TAU) for _ in range(2)]

    def batch(step, indexes):
        return ContrastiveBatch.from_views(tuple(views(step, indexes)), torch.tensor(indexes))

    for step in range(3):
        pair = [batch(10 * step + call, BATCHES[2 * (step % 2) + call]) for call in range(2)]
        losses = [loss_fn.contrast(each) for each in pair]
        for call, each in enumerate(pair):
            single = alone[call].contrast(each)
            assert torch.equal(losses[call], single)
            single.backward(retain_graph=True)
        sum(losses).backward()
    assert loss_fn.state_dict()["_extra_state"]["further"] == 1


class Recipe(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(WIDTH, WIDTH, bias=False).double()
        self.encoder.weight.data = torch.eye(WIDTH, dtype=torch.float64)
        self.loss = ContrastiveLoss("gather()", "sogclr(gamma=0.3)", temperature=TAU)

    def forward(self, z, indexes):
        return self.loss(*(self.encoder(view) for view in z), indexes=indexes)


def gradients_on(rank, world):
    recipe = Recipe()
    model = DistributedDataParallel(recipe)
    found = []
    for step, indexes in enumerate(BATCHES):
        own = indexes[rank::world]
        z = [view.detach() for view in views(step, indexes)]
        model([view[rank::world] for view in z], torch.tensor(own)).backward()
        found.append(recipe.encoder.weight.grad.clone())
        recipe.encoder.zero_grad()
    return found, saved(recipe.loss)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_equal_one_process(world):
    """With 3 ranks the first one has two samples of four, so batches are ragged."""
    alone, averages = one_process()
    for gradients, state in ranks.run(gradients_on, world):
        for gradient, expected in zip(gradients, alone, strict=True):
            assert naive.relative(gradient, expected) < 1e-9
        assert torch.allclose(state, averages, rtol=1e-12)


def one_process():
    recipe = Recipe()
    found = []
    for step, indexes in enumerate(BATCHES):
        z = [view.detach() for view in views(step, indexes)]
        recipe(z, torch.tensor(indexes)).backward()
        found.append(recipe.encoder.weight.grad.clone())
        recipe.encoder.zero_grad()
    return found, saved(recipe.loss)


def test_what_cannot_be_used_is_refused():
    for gamma in (0, -0.1, 1.5):
        with pytest.raises(ValueError, match=r"sogclr: gamma must be in \(0, 1\]"):
            make_objective(f"sogclr(gamma={gamma})")
    with pytest.raises(TypeError, match="sogclr: gamma must be a number, got True"):
        make_objective("sogclr(gamma=True)")
    loss_fn = ContrastiveLoss(objective="sogclr()")
    with pytest.raises(ValueError, match="sogclr: needs the data set index of every sample"):
        loss_fn(*views(0, (0, 1)))
    batch = ContrastiveBatch.from_views(tuple(views(0, (0, 1))), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="index 1 is beyond size=1 of the data set"):
        loss_fn.contrast(batch.within(dataset=DatasetAccess(size=1)))


def test_a_data_set_of_another_size_is_refused_after_a_restart():
    loss_fn = ContrastiveLoss(objective="sogclr()")
    batch = ContrastiveBatch.from_views(tuple(views(0, (0, 1))), torch.tensor([0, 1]))
    loss_fn.contrast(batch.within(dataset=DatasetAccess(size=12))).backward()
    second = ContrastiveLoss(objective="sogclr()")
    second.load_state_dict(loss_fn.state_dict())
    with pytest.raises(ValueError, match="a data set of 12 samples, but the data set has 13"):
        second.contrast(batch.within(dataset=DatasetAccess(size=13)))
    with pytest.raises(ValueError, match=r"was saved with gamma=0\.9"):
        ContrastiveLoss(objective="sogclr(gamma=0.5)").load_state_dict(loss_fn.state_dict())


def test_an_anchor_without_negatives_pays_nothing_and_leaves_no_average():
    loss_fn = ContrastiveLoss(objective="sogclr()", temperature=TAU)
    z = views(0, (3,))
    loss = loss_fn(*z, indexes=torch.tensor([3]))
    loss.backward()
    assert loss == 0
    assert all((view.grad == 0).all() for view in z)
    assert not saved(loss_fn).isfinite().any()
    assert math.isfinite(step_of(loss_fn, 1, (3, 4))[0])


@pytest.mark.parametrize("free", [True, False])  # whether values are free to read
def test_an_anchor_without_negatives_leaves_the_average_of_its_sample(free, monkeypatch):
    if not free:
        monkeypatch.setattr(sogclr, "places", lambda _: None)
    objective = SogCLR()
    # Sample 1 twice with one view, sample 2 with both, sample 0 never with negatives.
    names = torch.tensor([[1, 1, 2, 2, 0], [0, 0, 0, 1, 1], [1, 0, 1, 1, 0]])
    log_u = torch.tensor([0.5, 0.7, 0.2, 0.4, 0.9])
    seen = {"names": names, "log_u": log_u, "samples": None, "room": lambda: (2, 3)}
    empty = -torch.inf
    for _ in range(2):
        objective.update(seen)
        expected = torch.tensor([[empty, 0.5, 0.2], [empty, empty, 0.4]])
        assert torch.equal(objective.averages.log_u, expected)
