"""Losses of tuples that a recipe writes by hand: found by what they pull and what they push."""

from __future__ import annotations

import naive
import pytest
import torch
import torch.nn.functional as F
from device import DEVICE
from torch import nn

from negplug.hosts.loss_form import contrasts, weigher_of_data
from negplug.hosts.untreated import Judge

pytestmark = pytest.mark.usefixtures("unmarked")

ROWS, WIDTH = 6, 8


def turned(z):
    return z.roll(2, 0)


def margin_of_products(a, b):
    return F.relu((a * turned(b)).sum(-1) - (a * b).sum(-1) + 0.4).mean()


def margin_of_lengths(a, b):
    near, far = (a - b).norm(dim=1), (a - b[[3, 2, 5, 4, 1, 0]]).norm(dim=1)
    return torch.maximum(near - far + 1, torch.zeros_like(near)).mean()


def margin_of_keys_without_gradient(a, b):
    keys = b.detach()
    return F.relu(F.cosine_similarity(a, keys.flip(0)) - F.cosine_similarity(a, keys)).mean()


def in_halves(a, b):
    (x, y), (p, _) = a.chunk(2), b.chunk(2)
    return F.softplus((x - p).square().sum(1).sqrt() - (x - y).square().sum(1).sqrt()).sum()


def logistic(a, b):
    score = torch.einsum("bd,bd->b", a, b), torch.einsum("bd,bd->b", a, turned(b))
    return -(F.logsigmoid(score[0]) + F.logsigmoid(-score[1])).mean()


def chosen_by_a_softmax(a, b):
    scores = torch.stack([F.cosine_similarity(a, b.roll(n, 0)) for n in range(3)], 1)
    return F.cross_entropy(scores / 0.2, torch.zeros(len(a), dtype=torch.long, device=a.device))


def of_several_each(a, b):
    others = torch.stack([b.roll(n, 0) for n in range(3)], 1)
    return -F.cosine_similarity(a[:, None], others, dim=-1).log_softmax(1)[:, 0].mean()


def row_by_row(a, b):
    shares = []
    for i, row in enumerate(a):
        weights = [torch.dot(row, other).exp() for other in b]
        shares.append(weights[i] / sum(weights))
    return -torch.stack(shares).log().mean()


def by_labels(a, b):
    same = (torch.arange(len(a), device=a.device) % 2).float()
    far = F.pairwise_distance(a, b)
    return (same * far**2 + (1 - same) * (1 - far).clamp(min=0) ** 2).mean()


def spread_out(a, b):
    return torch.pdist(F.normalize(a)).square().mul(-2).exp().mean().log() + F.mse_loss(a, b)


def of_classes_that_are_samples(a, b):
    return F.multi_margin_loss(a @ b.T, torch.arange(len(a), device=a.device))


def pairs_with_labels(a, b):
    scores = torch.cat([(a * b).sum(1), (a * turned(b)).sum(1)])
    return F.binary_cross_entropy_with_logits(scores, (torch.arange(len(scores)) < ROWS).to(a))


def ranked_by_pairs(a, b):
    logit = (a * b).sum(-1) - (a * turned(b)).sum(-1)
    return F.binary_cross_entropy_with_logits(logit, torch.ones_like(logit))


def sums_that_compete(a, b):
    near, far = (a * b).sum(1) + (a * b.sin()).sum(1), (a * turned(b)).sum(1)
    labels = torch.zeros(len(a), dtype=torch.long, device=a.device)
    return F.cross_entropy(torch.stack([near, far], 1), labels)


def by_a_condition(a, b):
    first = torch.arange(len(a), device=a.device) < 2
    logit = torch.where(first, (a * b).sum(1), (a * turned(b)).sum(1))
    return F.binary_cross_entropy_with_logits(logit, first.to(a))


TUPLES = [
    *(pairs_with_labels, ranked_by_pairs, sums_that_compete, by_a_condition),
    *(margin_of_products, margin_of_lengths, margin_of_keys_without_gradient, in_halves, logistic),
    *(chosen_by_a_softmax, of_several_each, row_by_row, by_labels, spread_out),
    of_classes_that_are_samples,
]


def heads():
    torch.manual_seed(4)
    return nn.Linear(WIDTH, 3).double().to(DEVICE), nn.Parameter(torch.randn(5, WIDTH).to(DEVICE))


def pulled_alone(a, b):
    views = F.cosine_similarity(a, b), F.cosine_similarity(a, turned(b).detach())
    return sum(F.relu(0.9 - view).mean() for view in views)


def equally_far(a, b):
    return ((a - b).norm(dim=1) - (a - turned(b)).norm(dim=1)).square().mean()


def similarities_that_are_given(a, b):
    return (F.cosine_similarity(a, b) - torch.rand(len(a)).to(a)).abs().mean()


def relations_of_a_teacher(a, b):
    return F.smooth_l1_loss(torch.pdist(a), torch.pdist(b.detach()))


def energy_score(a, b):
    target = torch.randn_like(a)
    near = (a - target).norm(dim=1).mean() + (b - target).norm(dim=1).mean()
    return near / 2 - (a - b).norm(dim=1).mean() / 2


def kept_apart(a, b):
    target = torch.randn_like(a)
    near = (1 - F.cosine_similarity(a, target)).mean()
    return near + F.cosine_similarity(a, b).abs().mean()


def attention(a, b):
    scores = torch.stack([(a * b).sum(1), (a * turned(b)).sum(1)], 1).softmax(1)
    return F.mse_loss(scores[:, :1] * b + scores[:, 1:] * turned(b), a.detach())


def classes(a, b):
    head, _ = heads()
    return F.cross_entropy(head(a), torch.zeros(len(a), dtype=torch.long, device=a.device))


def margin_of_prototypes(a, b):
    _, prototypes = heads()
    own, other = F.normalize(prototypes.to(a))[:2]
    return F.relu((a * other).sum(1) - (a * own).sum(1) + 0.2).mean()


def margin_of_one_hot_classes(a, b):
    true = F.one_hot(torch.arange(len(a), device=a.device), WIDTH).to(a)
    return F.relu((a * (1 - true)).sum(1) - (a * true).sum(1) + 1).mean()


def teacher(a, b):
    head, _ = heads()
    soft = head(b).softmax(1).detach()
    return -(soft * head(a).log_softmax(1)).sum(1).mean() + (head(a) - head(b)).square().mean()


def divergences(a, b):
    p, q, r = (z.softmax(1) for z in (a, b, (a + b) / 2))
    return (p * (p / r).log()).sum(1).mean() + (q * (q / r).log()).sum(1).mean()


def one_logit_of_products(a, b):
    logit = (a * b).sum(-1) + (a * turned(b)).sum(-1)
    return F.binary_cross_entropy_with_logits(logit, torch.zeros_like(logit))


def factorization_machine(a, b):
    c = torch.tanh(a + b)
    logit = (a * b).sum(1) + (a * c).sum(1) + 0.5 * torch.einsum("bd,bd->b", b, c)
    return F.binary_cross_entropy(logit.sigmoid(), torch.ones_like(logit))


def one_logit_of_two_classes(a, b):
    logit = (a * b).sum(1) + (a * turned(b)).sum(1)
    labels = torch.zeros(len(a), dtype=torch.long, device=a.device)
    return F.cross_entropy(torch.stack([logit, torch.zeros_like(logit)], 1), labels)


OTHERS = [
    *(one_logit_of_products, factorization_machine, one_logit_of_two_classes),
    *(pulled_alone, equally_far, similarities_that_are_given, relations_of_a_teacher, attention),
    *(classes, margin_of_prototypes, margin_of_one_hot_classes, teacher, divergences),
    *(energy_score, kept_apart),
]


def embeddings():
    layer = nn.Linear(16, WIDTH).double().to(DEVICE)
    return [layer(z) for z in naive.embeddings(2, ROWS)]


@pytest.mark.parametrize("loss", TUPLES, ids=lambda f: f.__name__)
def test_a_loss_of_tuples_is_contrastive(loss):
    a, b = embeddings()
    assert weigher_of_data(loss(a, b)) is not None
    assert contrasts(loss(a, b), ((a, b), {}))


@pytest.mark.parametrize("loss", OTHERS, ids=lambda f: f.__name__)
def test_what_pulls_alone_or_classifies_is_none(loss):
    a, b = embeddings()
    assert weigher_of_data(loss(a, b)) is None
    assert not contrasts(loss(a, b), ((a, b), {}))


class Ordered(nn.Module):
    """A criterion whose name says nothing."""

    def forward(self, anchors, near, far):
        return F.relu((anchors - near).norm(dim=1) - (anchors - far).norm(dim=1) + 0.5).mean()


def test_a_module_of_ones_own_is_named_by_its_path():
    model = nn.Module()
    model.ordered = Ordered()
    a, b = embeddings()
    far = turned(b)
    loss = model.ordered(a, b, far=far)
    assert Judge(model=model).unknown(model.ordered, ((a, b), {"far": far}), loss) == "ordered"
