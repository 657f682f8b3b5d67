"""solo-learn's other contrastive methods on ranks: their loss functions, and whole steps."""

from __future__ import annotations

import copy
import importlib

import hosts
import naive
import pytest
import ranks
import torch
from solo_steps import ALL, METHODS, Contrast, assert_same, batch_for, model_of, step
from torch.nn.functional import normalize

from negplug import inject

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)

from negplug_solo import losses  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def _supcon(theirs, one, two):
    z, labels = torch.cat([one, two]), torch.arange(4).repeat(2) % 3
    return theirs(z, labels, 0.2), losses.simclr_by_class(Contrast(), z, labels, 0.2)


def _moco_v3(theirs, one, two):
    return theirs(one, two, 0.3), losses.mocov3(Contrast(), one, two, 0.3)


def _nnclr(theirs, one, two):
    treatment = losses.nnclr_gathered if GENERATION == "main" else losses.nnclr
    return theirs(one, two, 0.2), treatment(Contrast(), one, two, 0.2)


def _ressl(theirs, one, two):
    one, two = normalize(one), normalize(two)
    queue = normalize(naive.embeddings(1, 10, seed=9)[0].detach())
    ours = losses.ressl(Contrast(), one, two, queue, 0.2, 0.05)
    return theirs(one, two, queue, 0.2, 0.05), ours


CALLS = {"SupCon": _supcon, "MoCoV3": _moco_v3, "NNCLR": _nnclr, "ReSSL": _ressl}


def _on_a_rank(rank, world, name):
    z = naive.embeddings(2, 4, seed=10 + rank)
    module = importlib.import_module(f"solo.methods.{name.lower()}")
    found = CALLS[name](getattr(module, ALL[name][0]), *z)
    # A view may have no gradient: momentum keys.
    grads = [torch.autograd.grad(v, z, allow_unused=True, retain_graph=True) for v in found]
    flat = [torch.cat([torch.zeros(64) if g is None else g.flatten() for g in gs]) for gs in grads]
    return [v.detach() for v in found] + flat


@pytest.mark.parametrize("name", [name for name in METHODS if name in CALLS])
def test_the_loss_functions_on_ranks(name):
    alone = [_on_a_rank(rank, 1, name)[0] for rank in range(2)]
    found = ranks.run(_on_a_rank, 2, name)
    for theirs, ours, their_grad, our_grad in found:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-10
    gathers = name != "ReSSL" and GENERATION == "main"
    assert [value[0] != one for value, one in zip(found, alone, strict=True)] == [gathers] * 2


def _step_on_a_rank(rank, world, name, sampler):
    model = model_of(name)
    twin = copy.deepcopy(model)
    found = []
    with inject(twin, sampler) as handle:
        for number in range(4):
            batch = batch_for(number, rank)
            found.append((step(twin, batch), step(model, batch)))
            handle.end_step()
    return found[2:]


@pytest.mark.parametrize(
    ("name", "sampler"), [*((name, "in_batch()") for name in METHODS), ("ReSSL", "queue()")]
)
def test_the_whole_step_on_ranks(name, sampler):
    for found in ranks.run(_step_on_a_rank, 2, name, sampler):
        for ours, theirs in found:
            assert_same(ours, theirs)
