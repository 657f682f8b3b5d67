"""Contrastive losses that a recipe computes inline, beside a treated one: found in the loss."""

from __future__ import annotations

import re

import hosts
import naive
import pytest
import torch
import torch.nn.functional as F
from device import DEVICE
from torch import nn
from torch.nn.functional import cross_entropy  # by name, where nobody can wrap it

from negplug import ContrastiveLoss, inject

pytestmark = pytest.mark.filterwarnings("ignore")


def of_logsumexp(a, b):
    s = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2
    return (torch.logsumexp(s, 1) - s.diagonal()).mean()


def of_log_softmax(a, b):
    return -torch.einsum("id,jd->ij", a, b).log_softmax(1).diagonal().mean()


def of_exponentials(a, b):
    e = (a @ b.T).exp()
    return -(e.diagonal() / e.sum(1)).log().mean()


def imported_by_name(a, b):
    return cross_entropy(torch.cdist(a, b).neg(), torch.arange(len(a), device=a.device))


class Fused(torch.autograd.Function):
    """A softmax's loss with a gradient written by hand."""

    @staticmethod
    def forward(ctx, s):
        shares = s.softmax(1)
        ctx.save_for_backward(shares)
        return -shares.diagonal().log().mean()

    @staticmethod
    def backward(ctx, slope):
        (shares,) = ctx.saved_tensors
        return slope * (shares - torch.eye(len(shares), device=shares.device)) / len(shares)


def of_a_function_of_autograd(a, b):
    return Fused.apply(a @ b.T)


INLINE = {
    of_a_function_of_autograd: "fused",
    of_logsumexp: "logsumexp",
    of_log_softmax: "log_softmax",
    of_exponentials: "exp",
    imported_by_name: "log_softmax",
}

OTHER = [
    lambda a, b: F.mse_loss(a, b.detach()),
    lambda a, b: -(nn.Linear(8, 5).to(a)(a).log_softmax(1) * b[:, :5].softmax(1)).sum(1).mean(),
    lambda a, b: (a.T @ b / len(a) - torch.eye(8, device=a.device)).square().sum(),
    lambda a, b: torch.relu(1 - a.std(0)).mean() + F.cosine_similarity(a, b).neg().mean(),
    lambda a, b: cross_entropy(nn.Linear(8, 3).to(a)(a), a.new_zeros(len(a), dtype=torch.long)),
    lambda a, b: ContrastiveLoss().pairs(a, b),
    lambda a, b: of_logsumexp(a.detach(), b.detach()),
]


def fit(beside, **settings):
    """Fit the host's recipe, to whose loss the step adds ``beside(a, b)``."""
    module = hosts.recipe()
    step, head = module.training_step, nn.Linear(3 * hosts.IMAGE**2, 8).to(DEVICE)

    def training_step(batch, batch_idx):
        views = next(part for part in batch if isinstance(part, list))
        loss = step(batch, batch_idx)
        loss = loss["loss"] if isinstance(loss, dict) else loss
        return loss + beside(*(head(view.flatten(1)) for view in views[:2]))

    module.training_step = training_step
    control = hosts.negative_control()("uniform(num_negatives=2)", **settings)
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())


def said(caplog):
    return [r.getMessage() for r in caplog.records if " untreated: " in r.getMessage()]


@pytest.mark.parametrize("beside", INLINE, ids=lambda f: f.__name__)
def test_in_a_trainer(beside, caplog):
    before = torch.autograd.backward
    fit(beside)
    (message,) = said(caplog)
    assert f"untreated: {INLINE[beside]} (of similarities, inline in the loss whose" in message
    assert torch.autograd.backward is before


class Flash(torch.autograd.Function):
    """A fused loss of embeddings: what it computes is not to be seen."""

    @staticmethod
    def forward(ctx, a, b):
        shares = (a @ b.T).softmax(1)
        ctx.save_for_backward(a, b, shares)
        return -shares.diagonal().log().mean()

    @staticmethod
    def backward(ctx, slope):
        a, b, shares = ctx.saved_tensors
        off = slope * (shares - torch.eye(len(a), device=a.device)) / len(a)
        return off @ b, off.T @ a


HIDDEN = {
    "flash": lambda a, b: Flash.apply(a, b) + a.square().mean(),
    "compiled_function": torch.compile(of_logsumexp, backend="aot_eager"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_cannot_be_seen_is_said(name, caplog):
    fit(HIDDEN[name])
    (message,) = [text for text in said(caplog) if "cannot see" in text]
    assert re.search(rf"stays untreated: {name}\w* \(of embeddings in the loss whose", message)
    caplog.clear()
    fit(HIDDEN[name], ignore=re.search(r"NEGPLUG_IGNORE=(\w+)", message)[1])
    assert not said(caplog)


def test_what_is_none_or_is_ignored_is_not_named(caplog):
    fit(lambda a, b: sum(other(a, b) for other in OTHER))
    fit(of_logsumexp, ignore="logsumexp")
    fit(lambda a, b: Left()(a, b), ignore="Left")
    assert not said(caplog)


class Left(nn.Module):
    """A contrastive loss that may stay untreated."""

    def forward(self, a, b):
        return of_exponentials(a, b)


@pytest.mark.parametrize("shared", [True, False])
def test_in_a_plain_loop_what_trains_the_same_parameters_is_named(shared, caplog):
    criteria = pytest.importorskip("lightly.loss")
    one, other = (nn.Linear(16, 16).double().to(DEVICE) for _ in range(2))
    criterion = criteria.NTXentLoss()
    with inject(criterion, "uniform(num_negatives=2)"):
        for _ in range(4):
            z = naive.embeddings(2, 8)
            loss, layer = criterion(*map(one, z)), one if shared else other
            (loss + of_logsumexp(*map(layer, z))).backward()
    assert len(said(caplog)) == shared
    assert all("begins at test_inline_losses.py:" in message for message in said(caplog))


def test_in_a_plain_loop_that_is_watched(watch, caplog):
    criteria, layer = pytest.importorskip("lightly.loss"), nn.Linear(16, 16).double().to(DEVICE)
    watch("uniform(num_negatives=2)")
    criterion, before = criteria.NTXentLoss(), torch.autograd.backward
    for _ in range(4):
        a, b = (layer(z) for z in naive.embeddings(2, 8))
        torch.autograd.backward([criterion(a, b) + of_log_softmax(a, b)])
    assert len(said(caplog)) == 1
    assert torch.autograd.backward is before
