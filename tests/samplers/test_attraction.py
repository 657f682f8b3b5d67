"""Positives that a sampler hands over: through other samplers, to every objective, or refused."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from device import DEVICE

from negplug import (
    Columns,
    ContrastiveBatch,
    ContrastiveLoss,
    NegativeSampler,
    make_objective,
    make_sampler,
)
from negplug.contract.attraction import attracting
from negplug.objectives.infonce import InfoNCE

TAU = 0.3
ATTRACTS = "false_negatives(top=3, threshold=0.1)"
OBJECTIVES = [
    "infonce()",
    "decoupled()",
    "decoupled(sigma=0.5)",
    "debiased(tau_plus=0.05)",
    "debiased(beta=0.5)",
    "relic(alpha=0.7)",
    "sigmoid()",
    "ifm()",
    "rince()",
    "sogclr()",
    "isogclr()",
]


def spelled_out(batch, pools):
    """The same, positives as columns of all rows together and negatives as lists of them."""
    rows = torch.cat([batch.keys.embeddings, *(part.rows.embeddings for part in pools)])
    first, negatives, pulled = len(batch.keys), [], [batch.positives]
    for part in pools:
        entries = torch.arange(part.width, device=DEVICE).expand(len(batch.anchors), -1)
        entries = part.columns_at(entries)
        negatives.append((entries + first).where(part.serving(batch.anchors), -1))
        if part.attracted is not None:
            pulled.append(part.attracted.where(part.attracted < 0, part.attracted + first))
        first += len(part.rows)
    columns = torch.cat(negatives, 1)
    ids = torch.zeros(len(rows), dtype=torch.int64, device=DEVICE)
    keys = replace(batch.keys, embeddings=rows, ids=ids, name="all")
    part = replace(
        pools[0],
        rows=replace(keys, indexes=None, labels=None, views=None, identified=None),
        choice=Columns(columns.clamp(min=0), columns >= 0),
        attracted=None,
    )
    keys = replace(part.rows, name="")
    return replace(batch, keys=keys, positives=torch.cat(pulled, 1)), (part,)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "sampler",
    [
        ATTRACTS,
        f"hierarchical({ATTRACTS}, queue(size=40))",
        "false_negatives(top=3, threshold=0.1, source=uniform(num_negatives=9, shared=True))",
    ],
)
def test_every_objective_pulls_what_is_attracted(objective, sampler):
    loss_fn = ContrastiveLoss(sampler, objective, TAU)
    seen = []
    loss_fn.witness = lambda *given: seen.append(given)
    for seed in range(2):
        z = naive.embeddings(2, 8, seed=seed)
        loss_fn.contrast(ContrastiveBatch.from_views(z, torch.arange(8)))
    batch, pools = seen[1]
    assert any((part.attracted >= 0).any() for part in pools if part.attracted is not None)
    # In an evaluation: what a moving average takes in is not at stake.
    batch = batch.within(training=False)
    if objective == "infonce()":
        objective = "infonce(positives='mean')"
    alone = make_objective(objective)
    ours = alone(attracting(batch, pools), pools, TAU).mean()
    apart, one = spelled_out(batch, pools)
    reference = alone(apart, one, TAU).mean()
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-10


@pytest.mark.parametrize(
    "outer",
    [
        "hard(num_negatives=4, source={})",
        "uniform(num_negatives=4, source={})",
        "uniform(num_negatives=4, source=hierarchical({}, queue(size=40)))",
        "stratified(num_negatives=4, source={})",
        "filtered(similarity=0.5, source={})",
        "gumbel_max(num_negatives=3, source={})",
        "synthetic(num_mixed=4, num_hardest=4, source={})",
        "schedule({}, in_batch(), from_steps=(0, 5))",
        "hierarchical(queue(size=40), {})",
    ],
)
@pytest.mark.filterwarnings("ignore:.*all of them are used")
def test_other_samplers_hand_it_on(outer):
    loss_fn = ContrastiveLoss(outer.format(ATTRACTS), temperature=TAU)
    seen = []
    loss_fn.witness = lambda *given: seen.append(given)
    for seed in range(2):
        loss_fn(*naive.embeddings(2, 8, seed=seed), labels=torch.arange(8) % 3).backward()
    batch, pools = seen[1]
    (inner,) = make_sampler(ATTRACTS)(ContrastiveBatch.from_views(naive.embeddings(2, 8, seed=1)))
    wanted = [sorted(c for c in row if c >= 0) for row in inner.attracted.tolist()]
    assert sum(map(len, wanted)) > 8
    pulled = attracting(batch, pools)
    rows = batch.keys.embeddings
    for anchor, columns in enumerate(wanted):
        own = [c for c in pulled.positives[anchor, 1:].tolist() if c >= 0]
        found = pulled.keys.embeddings[own] @ rows.T > 1 - 1e-12
        assert sorted(found.nonzero()[:, 1].tolist()) == columns


def test_two_that_attract_add_up():
    other = "false_negatives(top=2, threshold=-0.2, source=queue(size=40))"
    loss_fn = ContrastiveLoss(f"hierarchical({ATTRACTS}, {other})", temperature=TAU)
    loss_fn.observe = True
    for seed in range(2):
        loss_fn(*naive.embeddings(2, 8, seed=seed)).backward()
    assert loss_fn.observed["num_negatives"] < 14 + 16 - 2
    again = "false_negatives(top=2, threshold=-1, source=false_negatives(top=3, threshold=-1))"
    (twice,) = make_sampler(again)(ContrastiveBatch.from_views(naive.embeddings(2, 8)))
    (once,) = make_sampler("false_negatives(top=5, threshold=-1)")(
        ContrastiveBatch.from_views(naive.embeddings(2, 8))
    )
    assert torch.equal(twice.attracted.sort(1).values, once.attracted.sort(1).values)
    assert torch.equal(twice.mask, once.mask)


@pytest.mark.parametrize(
    "tiers",
    [f"{ATTRACTS}, in_batch()", f"hard(num_negatives=3), {ATTRACTS}", f"gather(), {ATTRACTS}"],
)
def test_a_tier_that_pushes_what_another_attracts_is_refused(tiers):
    with pytest.raises(ValueError, match=r"two tiers choose from one pool.*source=hierarchical"):
        ContrastiveLoss(f"hierarchical({tiers})")(*naive.embeddings(2, 8))


@pytest.mark.parametrize("chain", ["emc2", "isir"])
def test_chains_refuse_it(chain):
    with pytest.raises(ValueError, match="must offer all rows of one pool"):
        ContrastiveLoss(f"{chain}(source={ATTRACTS}, size=9)")(
            *naive.embeddings(2, 8), indexes=torch.arange(8)
        )


class Nearest(InfoNCE):
    """Pulls towards the first positive alone, and says so."""

    several_positives = False


class Forgetful(NegativeSampler):
    """Makes negatives of its own from its source's, without what comes with them."""

    def __init__(self, source):
        super().__init__()
        self.source = source

    def sample(self, batch):
        return tuple(replace(part, attracted=None) for part in self.source(batch))


def test_an_objective_that_cannot_take_it_is_refused():
    with pytest.raises(ValueError, match=r"cannot take those that false_negatives.*eliminate"):
        ContrastiveLoss(ATTRACTS, Nearest())
    with pytest.raises(ValueError, match="cannot take those that"):
        ContrastiveLoss(f"schedule(in_batch(), {ATTRACTS}, from_steps=(0, 9))", Nearest())
    eliminates = "false_negatives('eliminate', top=3, threshold=0.1)"
    assert ContrastiveLoss(eliminates, Nearest())(*naive.embeddings(2, 8)).isfinite()
    # One that a host's loss brings along comes with the call.
    batch = ContrastiveBatch.from_views(naive.embeddings(2, 8))
    with pytest.raises(ValueError, match="cannot take those that"):
        ContrastiveLoss(ATTRACTS).contrast(batch, Nearest())
    later = ContrastiveLoss(f"schedule(in_batch(), {ATTRACTS}, from_steps=(0, 9))")
    with pytest.raises(ValueError, match="cannot take those that"):
        later.contrast(batch, Nearest())


def test_a_sampler_that_loses_it_is_refused():
    forgetful = ContrastiveLoss(Forgetful(make_sampler(ATTRACTS)))
    with pytest.raises(ValueError, match=r"loses the positives that false_negatives"):
        forgetful(*naive.embeddings(2, 8))
    # Whose turn has not come attracts nothing yet.
    later = ContrastiveLoss(f"schedule(in_batch(), {ATTRACTS}, from_steps=(0, 2))")
    for seed in range(3):
        loss = later(*naive.embeddings(2, 8, seed=seed))
        loss.backward()
    alone = ContrastiveLoss(ATTRACTS)(*naive.embeddings(2, 8, seed=2))
    torch.testing.assert_close(loss, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "columns", [torch.zeros(16, 2), torch.zeros(16).long(), torch.zeros(3, 2).long()]
)
def test_columns_of_another_form_are_refused(columns):
    class Wrong(NegativeSampler):
        def sample(self, batch):
            return replace(batch.all_keys(), attracted=columns)

    with pytest.raises(ValueError, match=r"attracted must be int64 \[N, F\] with N = 16"):
        ContrastiveLoss(Wrong())(*naive.embeddings(2, 8))


def test_an_anchor_without_positive_of_its_own_pays_for_what_it_attracts():
    z = torch.nn.functional.normalize(torch.cat(naive.embeddings(2, 6)), dim=1)
    ids = torch.tensor([0, 1, 2, 3, 4, -1, 0, 1, 2, 3, 4, -1], device=DEVICE)
    batch = ContrastiveBatch.from_ids(z, ids)
    sampler = make_sampler("false_negatives(top=1, threshold=-1)")
    (part,) = sampler(batch)
    losses = []
    for i, logits in enumerate(z @ z.T / TAU):
        pulled = [c for c in [*batch.positives[i].tolist(), *part.attracted[i].tolist()] if c >= 0]
        push = logits[part.serving(batch.anchors)[i]]
        losses.append(torch.cat([logits[pulled], push]).logsumexp(0) - logits[pulled].mean())
    ours = ContrastiveLoss(sampler, temperature=TAU).contrast(batch)
    torch.testing.assert_close(ours, torch.stack(losses).mean(), rtol=1e-12, atol=0)
