"""Whole steps on two ranks, treated and untreated: the same loss and the same gradient.

Every method of Lightly, gathering wherever its criterion can, and solo-learn's SimCLR. solo-learn's
other methods are in ``hosts/solo/test_methods_on_ranks.py`` and ``hosts/solo/test_mocov2plus.py``.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util

import hosts
import naive
import pytest
import ranks
import torch

from negplug import inject

GENERATION = hosts.solo_generation()
HAS_LIGHTLY = importlib.util.find_spec("lightly") is not None
if not (HAS_LIGHTLY or GENERATION):
    pytest.skip("no host is installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

SIZE = 8
"""Samples on each rank."""


def views(number, rank, count=2):
    generator = torch.Generator().manual_seed(10 * number + rank)
    shape = (SIZE, 3, hosts.IMAGE, hosts.IMAGE)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def step(model, batch):
    """The host's own training step: its loss and the gradient of every weight."""
    model.log_dict = model.log = lambda *args, **kwargs: None
    loss = model.training_step(batch, 0)
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.detach(), torch.cat([g.flatten() for g in found if g is not None])


def both(model, sampler, batches):
    """For each batch what ours finds and what the host finds."""
    twin, found = copy.deepcopy(model), []
    with inject(twin, sampler) as handle:
        for batch in batches:
            found.append((step(twin, batch), step(model, batch)))
            handle.end_step()
        assert all(treated.calls >= len(batches) for treated in handle.losses.values())
    return found


def assert_same(found):
    for (ours, our_grad), (theirs, their_grad) in found:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
        assert naive.relative(our_grad, their_grad) < 1e-9
        assert their_grad.norm() > 0


# ------------------------------------------------------------------ Lightly


METHODS = importlib.import_module("lightly_methods").METHODS if HAS_LIGHTLY else ()
# And the one criterion with a memory bank that no method gives one.
CASES = [*((name, False) for name in METHODS), *((n, True) for n in METHODS if n == "DirectCLR")]


def _lightly(rank, world, name, bank):
    from lightly.loss import DirectCLRLoss
    from lightly_methods import WITH_BANK, build

    batches = [(views(number, rank), torch.arange(SIZE), [""] * SIZE) for number in range(4)]
    found = []
    for gather in (True, False):
        model = build(name)
        if bank:
            model.criterion = DirectCLRLoss(loss_dim=8, memory_bank_size=(2 * SIZE, 8))
        for module in model.modules():
            if hasattr(module, "gather_distributed"):
                module.gather_distributed = gather
        # Lightly's bank keeps this rank's keys unless it gathers.
        with_bank = bank or name in WITH_BANK
        sampler = f"queue(gather={gather})" if with_bank else "in_batch()"
        # Banks of two batches are noise until two of them were seen.
        found.append(both(model.double(), sampler, batches)[2 if with_bank else 0 :])
    return found


@pytest.mark.parametrize(("name", "bank"), CASES)
def test_lightlys_methods(name, bank):
    for gathered, alone in ranks.run(_lightly, 2, name, bank):
        assert_same(gathered)
        assert_same(alone)
        apart = [one[0][0] != other[0][0] for one, other in zip(gathered, alone, strict=True)]
        assert apart == [name != "MACL"] * len(apart)  # which never gathers


# ------------------------------------------------------------------ solo-learn


VARIANTS = [{}, {"small_crops": 3}] if GENERATION else []
if GENERATION == "1.0.2":
    VARIANTS += [{"supervised": True}, {"supervised": True, "small_crops": 2}]


def _simclr(rank, world, variant):
    torch.manual_seed(0)
    model = hosts.recipe(**variant).double()
    crops = 2 + variant.get("small_crops", 0)
    indexes = torch.arange(SIZE) + SIZE * rank
    batches = [[indexes, views(number, rank, crops), indexes % 3] for number in range(2)]
    return both(model, "in_batch()", batches)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_solo_learns_simclr(variant):
    for found in ranks.run(_simclr, 2, variant):
        assert_same(found)
