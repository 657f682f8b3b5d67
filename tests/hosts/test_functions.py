"""Contrastive losses that functions compute beside a treated one: named where they are called."""

from __future__ import annotations

import gc
import logging

import hosts
import naive
import pytest
import torch
import torch.nn.functional as F
from beside import fit
from device import DEVICE
from torch import nn

from negplug import inject
from negplug.hosts.functions import FunctionWatch

pytestmark = pytest.mark.filterwarnings("ignore")


def info_nce(query, keys, temperature=0.1):
    """As it is copied from repository to repository."""
    query, keys = F.normalize(query, dim=-1), F.normalize(keys, dim=-1)
    logits = query @ keys.transpose(-2, -1)
    return F.cross_entropy(logits / temperature, torch.arange(len(query), device=query.device))


def against_a_queue(a, b):
    queue = torch.randn(8, 12).to(a)
    logits = torch.cat([(a * b.detach()).sum(1, keepdim=True), a @ queue], 1)
    return nn.CrossEntropyLoss()(logits, torch.zeros(len(a), dtype=torch.long, device=a.device))


def with_sigmoids(a, b):
    return F.binary_cross_entropy_with_logits(a @ b.T, torch.eye(len(a), device=a.device))


def of_triplets(a, b):
    return F.triplet_margin_loss(a, b, b.roll(1, 0))


FUNCTIONS = {
    info_nce: "cross_entropy",
    against_a_queue: "cross_entropy",
    with_sigmoids: "binary_cross_entropy_with_logits",
    of_triplets: "triplet_margin_loss",
}

OTHER = [
    lambda a, b: F.cross_entropy(nn.Linear(8, 3).to(a)(a), a.new_zeros(len(a), dtype=torch.long)),
    lambda a, b: F.kl_div(a.log_softmax(1), b.softmax(1)),
    lambda a, b: info_nce(a.detach(), b.detach()),
]


def said(caplog):
    return [r.getMessage() for r in caplog.records if "by functions" in r.getMessage()]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_beside_a_trainers_loss(function, caplog):
    before = F.cross_entropy, F.triplet_margin_loss
    fit(lambda module, a, b, _: function(a, b))
    (message,) = said(caplog)
    assert f"{hosts.site_name()} of" in message
    assert f"untreated: {FUNCTIONS[function]} (called at test_functions.py:" in message
    assert (F.cross_entropy, F.triplet_margin_loss) == before


def test_what_is_none_or_is_ignored_is_not_named(caplog):
    fit(lambda module, a, b, _: [other(a, b) for other in OTHER])
    fit(lambda module, a, b, _: info_nce(a, b), ignore="cross_entropy")
    assert not said(caplog)


class Plain(nn.Module):
    """A model of a plain loop, of whichever host."""

    def __init__(self):
        super().__init__()
        self.recipe, self.head = hosts.recipe(), nn.Linear(3 * hosts.IMAGE**2, 8)
        self.recipe.log = self.recipe.log_dict = lambda *_, **__: None

    def step(self, batch, beside):
        views = next(part for part in batch if isinstance(part, list))
        loss = self.recipe.training_step(batch, 0)
        loss = loss["loss"] if isinstance(loss, dict) else loss
        (loss + beside(*(self.head(view.flatten(1)) for view in views[:2]))).backward()


def test_beside_a_loss_that_is_injected_by_hand(caplog):
    model = Plain()
    # What trains the same parameters is named; here the head's are its own.
    model.recipe.head = getattr(model.recipe, "head", None)
    with inject(model.recipe, "uniform(num_negatives=2)"):
        for batch in hosts.loader():
            model.step(batch, lambda a, b: info_nce(a, b))
    assert not said(caplog)
    shared = next(p for p in model.recipe.parameters() if p.requires_grad)
    with inject(model.recipe, "uniform(num_negatives=2)"):
        for batch in hosts.loader():
            model.step(batch, lambda a, b: info_nce(a * shared.sum(), b))
    (message,) = said(caplog)
    assert "cross_entropy (called at test_functions.py:" in message


def test_in_a_plain_loop_that_is_watched(watch, caplog):
    criteria, layer = pytest.importorskip("lightly.loss"), nn.Linear(16, 16).double().to(DEVICE)
    caplog.set_level(logging.INFO, "negplug")
    watch("uniform(num_negatives=2)")
    criterion, own = criteria.NTXentLoss(), F.cross_entropy
    for _ in range(4):
        a, b = (layer(z) for z in naive.embeddings(2, 8))
        (criterion(a, b) + info_nce(a, b)).backward()
    assert len(said(caplog)) == 1
    assert F.cross_entropy is own


def test_a_watched_loss_that_goes_in_its_first_steps_ends_the_watching_no_later(watch, caplog):
    criteria, layer = pytest.importorskip("lightly.loss"), nn.Linear(16, 16).double().to(DEVICE)
    watch("uniform(num_negatives=2)")
    own, losses = F.cross_entropy, [criteria.NTXentLoss() for _ in range(2)]
    for step in range(5):
        a, b = (layer(z) for z in naive.embeddings(2, 8))
        sum(criterion(a, b) for criterion in losses).backward()
        if not step:
            assert F.cross_entropy is not own
            del losses[0]
            gc.collect()
    assert F.cross_entropy is own
    for _ in range(2):  # nor where none is left
        criteria.NTXentLoss()(layer(a.detach()), layer(b.detach())).backward()
        gc.collect()
    assert F.cross_entropy is own


def test_a_compiled_function_stays_one_graph(caplog):
    criteria = pytest.importorskip("lightly.loss")
    layer, criterion, graphs = nn.Linear(16, 16).double().to(DEVICE), criteria.NTXentLoss(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def beside(a, b):
        return info_nce(layer(a), layer(b))

    compiled = torch.compile(beside, backend=backend, fullgraph=True)
    with inject(criterion, "uniform(num_negatives=2)"):
        for _ in range(5):
            z = naive.embeddings(2, 8)
            (criterion(*map(layer, z)) + compiled(*z)).backward()
    # The second is that of the functions as they were before.
    assert len(graphs) == 2


class Ending(FunctionWatch):
    """One that ends as a call is noted, as one whose model is collected just then does."""

    def note(self, *args):
        self.stop()

    def note_inline(self, *args, **kwargs):
        self.stop()


def test_watches_that_end_while_others_note_a_call():
    before = F.cross_entropy, torch.autograd.backward
    z0, z1 = naive.embeddings(2, 8)
    for loss in (info_nce, lambda a, b: torch.logsumexp(a @ b.T, 1).sum()):
        assert [Ending() for _ in range(3)]
        loss(z0.requires_grad_(), z1).backward()
        assert (F.cross_entropy, torch.autograd.backward) == before
