"""Frozen weights are told from keys and queues, and what mixes samples from what compares them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from negplug.hosts.loss_form import contrasts, weigher_of_data

pytestmark = pytest.mark.usefixtures("unmarked")

ROWS, WIDTH, CLASSES = 6, 4, 5
TARGETS = torch.arange(ROWS) % CLASSES
OWN = torch.arange(ROWS)


def fixed(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


FROZEN, TABLE = nn.Parameter(fixed(CLASSES, WIDTH), False), nn.Embedding(CLASSES, WIDTH)
GATE, EXPERTS = nn.Linear(WIDTH, 3), nn.ModuleList(nn.Linear(WIDTH, CLASSES) for _ in range(3))
ATTENTION = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
REPARAMETRISED = parametrizations.weight_norm(nn.Linear(WIDTH, CLASSES))
ADJACENCY = fixed(ROWS, ROWS).softmax(1)


def classified(logits):
    return F.cross_entropy(logits, TARGETS)


def mixed(z, by):
    """A mixture of experts."""
    shares, experts = GATE(z).softmax(1), torch.stack([expert(z) for expert in EXPERTS], 1)
    if by == "einsum":
        return torch.einsum("be,bec->bc", shares, experts)
    if by == "bmm":
        return (shares[:, None] @ experts).squeeze(1)
    if by == "unnormalised":
        return (GATE(z).relu()[:, None] @ experts).squeeze(1)
    return (shares[:, :, None] * experts).sum(1)


def attended(z):
    tokens = z.reshape(ROWS // 2, 2, WIDTH)
    return ATTENTION(tokens, tokens, tokens)[0].reshape(ROWS, WIDTH)


def by_hand(z):
    """Attention of samples to samples, whose values are the scores of the classes."""
    values = TABLE.weight.new_tensor(fixed(WIDTH, CLASSES).tolist())
    return (z @ z.T).softmax(1) @ (z @ nn.Parameter(values))


CLASSIFIERS = {
    "frozen weight": lambda z: F.linear(z, FROZEN),
    "frozen weight and a bias that learns": lambda z: torch.addmm(TABLE.weight[:, 0], z, FROZEN.T),
    "frozen directions": lambda z: F.normalize(z) @ F.normalize(FROZEN).T / 0.1,
    "cosines with frozen prototypes": lambda z: F.cosine_similarity(z[:, None], FROZEN[None], 2),
    "distances from frozen prototypes": lambda z: -torch.cdist(z, FROZEN),
    "tied weight": lambda z: z @ TABLE.weight.T,
    "reparametrised weight": lambda z: REPARAMETRISED(z),
    "old classes frozen, a new one learns": lambda z: torch.cat(
        [F.linear(z, FROZEN[:4]), F.linear(z, TABLE.weight[4:])], 1
    ),
    "graph convolution": lambda z: ADJACENCY @ F.linear(z, TABLE.weight),
    "two graph convolutions": lambda z: ADJACENCY @ ((ADJACENCY @ z).relu() @ TABLE.weight.T),
    "graph attention": by_hand,
    "attention and a linear layer": lambda z: F.linear(attended(z), TABLE.weight),
    "attention and a frozen layer": lambda z: F.linear(attended(z), FROZEN),
    **{f"experts by {by}": lambda z, by=by: mixed(z, by) for by in ("sum", "einsum", "bmm")},
    "experts by unnormalised weights": lambda z: mixed(z, "unnormalised"),
    "experts that are frozen": lambda z: (
        GATE(z).softmax(1)[:, :, None] * torch.einsum("bd,edc->bec", z, fixed(3, WIDTH, CLASSES))
    ).sum(1),
}

QUEUE = fixed(WIDTH, 9)
KEYED = {
    "a queue, with the positive ahead": lambda a, k: F.cross_entropy(
        torch.cat([(a * k).sum(1, keepdim=True), a @ QUEUE], 1), OWN * 0
    ),
    "a queue, by einsum": lambda a, k: F.cross_entropy(
        torch.cat([torch.einsum("nc,nc->n", a, k)[:, None], torch.einsum("nc,ck->nk", a, QUEUE)], 1)
        / 0.07,
        OWN * 0,
    ),
    "a queue, by exponentials": lambda a, k: (
        (a @ QUEUE).exp().sum(1).log() - F.cosine_similarity(a, k)
    ).mean(),
    "keys without gradient": lambda a, k: F.cross_entropy(F.normalize(a) @ F.normalize(k).T, OWN),
    "negatives of each one's own": lambda a, k: F.cross_entropy(
        torch.cat([(a * k).sum(1, keepdim=True), (a[:, None] @ fixed(ROWS, WIDTH, 7))[:, 0]], 1),
        OWN * 0,
    ),
}


@pytest.fixture
def views():
    net, x = nn.Linear(3, WIDTH), fixed(ROWS, 3)
    return net(x), net(x + 0.1)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, views):
    loss = classified(CLASSIFIERS[name](views[0]))
    assert not contrasts(loss, (views[0], TARGETS))
    assert not weigher_of_data(loss)


@pytest.mark.parametrize("name", KEYED)
def test_keys_that_do_not_learn(name, views):
    a, keys = views[0], views[1].detach()
    loss = KEYED[name](a, keys)
    assert contrasts(loss, (a, keys))
    assert weigher_of_data(loss)


def test_as_many_classes_as_samples_are_weights_where_classes_are_given(views):
    many = F.normalize(fixed(ROWS, WIDTH))
    loss = F.cross_entropy(views[0] @ many.T, OWN)
    assert not contrasts(loss, (views[0], OWN))
    assert contrasts(loss, (views[0], many))  # the keys


def test_weights_that_are_handed_over(views):
    z, own = views[0], TABLE.weight
    for weight in (F.normalize(own), REPARAMETRISED.weight, own.t(), FROZEN + 0.1 * own):
        weight = weight if weight.shape[0] == WIDTH else weight.T
        assert not contrasts(classified(z @ weight), (z, weight, TARGETS))
    # But where everything is made of parameters they are what is compared.
    tables = [F.normalize(nn.Parameter(fixed(ROWS, WIDTH))) for _ in range(2)]
    assert contrasts(F.cross_entropy(tables[0] @ tables[1].T, OWN), tables)


def test_scores_that_are_ranked_by_pairs(views):
    scores = views[0].sum(1)
    loss = F.softplus(scores[:, None] - scores[None]).mean()
    assert not contrasts(loss, (scores,))


def test_maps_of_features(views):
    """Compared place by place, as dense methods do."""
    net = nn.Conv2d(3, WIDTH, 1)
    maps = [net(fixed(ROWS, 3, 3, 3) + n).flatten(2) for n in range(2)]
    logits = torch.einsum("ncq,nck->nqk", *maps)
    loss = F.cross_entropy(logits.flatten(0, 1), torch.arange(9).repeat(ROWS))
    assert contrasts(loss, maps)
    assert weigher_of_data(loss)
