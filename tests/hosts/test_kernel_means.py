"""Exponentials that are only averaged, beside those that similarities compete in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from negplug.hosts.loss_form import contrasts, weigher_of_data

pytestmark = pytest.mark.usefixtures("unmarked")

ROWS = 6
OFF = 1 - torch.eye(ROWS)
SIGNS = 2 * torch.block_diag(torch.ones(ROWS, ROWS), torch.ones(ROWS, ROWS)) - 1


def kernel(a, b):
    return sum(torch.exp(-(torch.cdist(a, b) ** 2) / width) for width in (1.0, 4.0))


def of_differences(a, b):
    return (-(a[:, None] - b[None]).pow(2).sum(2) / 2).exp()


def of_products(a, b):
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    return (-(lengths - 2 * a @ b.T).clamp(min=0) / 2).exp()


def discrepancy(a, b, k=kernel):
    return k(a, a).mean() + k(b, b).mean() - 2 * k(a, b).mean()


def unbiased(a, b):
    within = ((kernel(z, z) * OFF).sum() / (ROWS * (ROWS - 1)) for z in (a, b))
    return sum(within) - 2 * kernel(a, b).mean()


def of_both_at_once(a, b):
    both = torch.cat([a, b])
    distances = (both[:, None] - both[None]).pow(2).sum(2)
    k = torch.exp(-distances / distances.mean())
    return (k[:ROWS, :ROWS] + k[ROWS:, ROWS:] - k[:ROWS, ROWS:] - k[ROWS:, :ROWS]).mean()


def of_signs(a, b):
    both = torch.cat([a, b])
    return (kernel(both, both) * SIGNS).sum()


def to_a_prior(a, b, k=of_differences):
    return discrepancy(a, torch.randn_like(a), k) + F.mse_loss(a, b)


def independence(a, b):
    kernels = [kernel(z, z) for z in (a, b)]
    first, second = (k - k.mean(0) - k.mean(1, keepdim=True) + k.mean() for k in kernels)
    return (first * second).mean()


def energy_distance(a, b):
    return 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()


def planned(a, b):
    costs = torch.cdist(a, b)
    with torch.no_grad():
        plan = torch.exp(-costs)
        for _ in range(3):
            plan = plan / plan.sum(1, keepdim=True)
            plan = plan / plan.sum(0)
    return (plan * costs).sum()


AVERAGED = {
    "discrepancy": discrepancy,
    "of differences": lambda a, b: discrepancy(a, b, of_differences),
    "of products": lambda a, b: discrepancy(a, b, of_products),
    "root": lambda a, b: discrepancy(a, b).clamp(min=1e-6).sqrt(),
    "power": lambda a, b: (discrepancy(a, b) + 1) ** 0.5,
    "unbiased": unbiased,
    "of both at once": of_both_at_once,
    "of signs": of_signs,
    "to a prior": to_a_prior,
    "to a prior, by cdist": lambda a, b: to_a_prior(a, b, kernel),
    "independence": independence,
    "energy distance": energy_distance,
    "transport": planned,
}


def total(e):
    return e.sum(1)


def by_hand(a, b):
    e = (a @ b.T).exp()
    return -(e.diagonal().log() - total(e).log()).mean()


def shares(a, b):
    s = a @ b.T
    return (s - s.logsumexp(1, keepdim=True)).exp()


CONTRASTIVE = {
    "by hand": by_hand,
    "by hand, of distances": lambda a, b: -(kernel(a, b).diagonal() / total(kernel(a, b))).mean(),
    "by masks": lambda a, b: (
        (of_differences(a, b) * OFF).sum(1) / (of_differences(a, b) * (1 - OFF)).sum(1)
    ).mean(),
    "by powers": lambda a, b: -(kernel(a, b).diagonal() * total(kernel(a, b)).pow(-1)).mean(),
    "by shares": lambda a, b: (shares(a, b) * (OFF - 0.5)).mean(),
    "beside a discrepancy": lambda a, b: by_hand(a, b) + discrepancy(a, b),
    "a softmax beside a discrepancy": lambda a, b: (
        F.cross_entropy(a @ b.T, torch.arange(ROWS)) + discrepancy(a, b)
    ),
    "uniformity": lambda a, b: torch.pdist(a).square().mul(-2).exp().mean().log(),
    "apart by kernels, together by distance": lambda a, b: (
        (kernel(a, a) * OFF).mean() + F.mse_loss(a, b)
    ),
    "a bound of information": lambda a, b: (
        ((a @ b.T - 1).exp() * OFF).mean() - (a * b).sum(1).mean()
    ),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_a_difference_of_means_is_no_contrast(name, views):
    loss = AVERAGED[name](*views)
    assert weigher_of_data(loss) is None
    assert not contrasts(loss, views)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_what_competes_or_pushes_alone_is_one(name, views):
    loss = CONTRASTIVE[name](*views)
    assert weigher_of_data(loss) is not None
    assert contrasts(loss, views)
