"""Which scalars are contrastive losses, by the graph that they come from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from negplug.hosts.graph_parameters import parameters_of
from negplug.hosts.loss_form import contrasts, weigher_of_data

pytestmark = pytest.mark.usefixtures("unmarked")

ROWS = 6
OWN = torch.arange(ROWS)
CLASSES = nn.Parameter(torch.randn(5, 4))

CONTRASTIVE = {
    "cross-entropy of products": lambda a, b: F.cross_entropy(a @ b.T / 0.2, OWN),
    "of cosines": lambda a, b: F.cross_entropy(F.cosine_similarity(a[:, None], b[None], 2), OWN),
    "of distances": lambda a, b: F.cross_entropy(-torch.cdist(a, b), OWN),
    "of squared differences": lambda a, b: (
        (-(a[:, None] - b[None]).pow(2).sum(2)).logsumexp(1).mean()
    ),
    "by einsum": lambda a, b: F.cross_entropy(torch.einsum("nc,mc->nm", a, b), OWN),
    "against momentum keys": lambda a, b: F.cross_entropy(a @ b.detach().T, OWN),
    "of pairs, with sigmoids": lambda a, b: (
        -F.logsigmoid(a @ b.T * (2 * torch.eye(ROWS) - 1)).sum()
    ),
    "exponentials by hand": lambda a, b: (a @ b.T).exp().sum(1).log().mean() - (a * b).sum(),
    "hinge over all pairs": lambda a, b: (
        (0.2 + a @ b.T - (a * b).sum(1, keepdim=True)).clamp(min=0).mean()
    ),
    "hinge over the distance of the hardest": lambda a, b: F.relu(
        (a - b).norm(dim=1) - torch.cdist(a, b).min(1).values + 0.2
    ).mean(),
}

OTHER = {
    "regression": F.mse_loss,
    "cosine": lambda a, b: 2 - 2 * F.cosine_similarity(a, b).mean(),
    "classifier": lambda a, b: F.cross_entropy(F.linear(a, CLASSES), OWN % 5),
    "classifier of directions": lambda a, b: F.cross_entropy(
        F.normalize(a) @ F.normalize(CLASSES).T, OWN % 5
    ),
    "distillation": lambda a, b: F.kl_div(a.log_softmax(1), b.softmax(1), reduction="batchmean"),
    "hinge over a classifier's scores": lambda a, b: F.relu(1 - F.linear(a, CLASSES)).mean(),
    "variance": lambda a, b: F.relu(1 - a.std(0)).mean() + (a.T @ a).pow(2).mean(),
    "redundancy": lambda a, b: (a.T @ b - torch.eye(4)).pow(2).sum(),
}


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive(name, views):
    assert contrasts(CONTRASTIVE[name](*views), views)


@pytest.mark.parametrize("name", OTHER)
def test_not_contrastive(name, views):
    assert not contrasts(OTHER[name](*views), views)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive_by_what_networks_make_of_data(name, views):
    assert weigher_of_data(CONTRASTIVE[name](*views))
    convolved = nn.Conv1d(3, 4, 1)(torch.randn(2 * ROWS, 3, 1)).mean(2)
    assert weigher_of_data(CONTRASTIVE[name](*convolved.chunk(2)))


@pytest.mark.parametrize("name", OTHER)
def test_not_contrastive_by_what_networks_make_of_data(name, views):
    assert not weigher_of_data(OTHER[name](*views))


def test_weights_that_are_made_of_weights_are_no_data(views):
    low, rank = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 4))
    logits = F.linear(views[0], F.normalize(CLASSES + 0.5 * (low @ rank), dim=1))
    assert not weigher_of_data(F.cross_entropy(logits, OWN % 5))


def test_parameters_of(views):
    net = nn.Linear(4, 4, bias=False)
    assert parameters_of(F.linear(net(views[0].detach()), CLASSES)) == {net.weight, CLASSES}


def test_embeddings_are_found_in_what_holds_them(views):
    loss = CONTRASTIVE["by einsum"](*views)
    assert contrasts(loss, ((), {"out": {"views": list(views)}}))
    assert not contrasts(loss, (torch.randn(ROWS, 3), {}))  # a model that is given images


def test_attention_below_a_loss_is_no_contrast(views):
    attention = nn.MultiheadAttention(4, 1)
    out, _ = attention(*(views[0][None],) * 3)
    assert not contrasts(F.mse_loss(F.linear(out[0], CLASSES), torch.zeros(ROWS, 5)), views)
