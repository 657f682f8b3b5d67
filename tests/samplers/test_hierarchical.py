"""``hierarchical``: the union of its tiers, each row once."""

from __future__ import annotations

import itertools
from dataclasses import replace

import naive
import pytest
import torch
from tiers import LABELS, SIZE, TEMPERATURE, batch_of, naive_loss, rows_of, trained

from negplug import ContrastiveLoss, Draws, NegativeSampler, make_sampler
from negplug.objectives.logits import negative_logsumexp
from negplug.samplers.hierarchical import Hierarchical

OVERLAPS = {
    "no overlap": "uniform(num_negatives=4), uniform(num_negatives=5, source=queue(size=72))",
    "a whole pool first": "in_batch(), uniform(num_negatives=4)",
    "a whole pool last": "uniform(num_negatives=4), queue(size=72), in_batch()",
    "two whole pools": "in_batch(), gather(), queue(size=72)",
    "two chosen parts": "uniform(num_negatives=9), uniform(num_negatives=11)",
    "three chosen parts": "uniform(num_negatives=9), hard(num_negatives=6), "
    "uniform(num_negatives=7)",
    "short rows": "filtered(by='labels', source=hard(num_negatives=9)), uniform(num_negatives=9)",
    "chosen from one queue": "uniform(num_negatives=30, source=queue(size=72)), "
    "hard(num_negatives=20, source=queue(size=72))",
    "a queue and part of it": "uniform(num_negatives=9, source=queue(size=72)), in_batch(), "
    "queue(size=72)",
    "a masked pool and chosen": "uniform(num_negatives=9), filtered(by='labels')",
    "two masked pools": "filtered(by='labels'), filtered(similarity=0.2)",
    "a masked pool in a whole one": "filtered(by='labels'), in_batch()",
    "nested": "hierarchical(uniform(num_negatives=5), queue(size=72)), "
    "hierarchical(uniform(num_negatives=6), hard(num_negatives=4, source=queue(size=72)))",
}


@pytest.mark.parametrize("tiers", OVERLAPS.values(), ids=OVERLAPS.keys())
def test_value_and_gradient_equal_a_loop_over_the_union(tiers):
    loss_fn = trained(f"hierarchical({tiers})")
    z = naive.embeddings(2, SIZE)
    batch = batch_of(loss_fn, z)
    each = [tier(batch) for tier in loss_fn.sampler.tiers]
    pools = {id(p.pool): p.pool for negatives in each for p in negatives.parts()}
    pools[id(batch.keys)] = None
    per_tier = [rows_of(negatives, batch) for negatives in each]
    union = [set().union(*rows) for rows in zip(*per_tier, strict=True)]
    overlap = sum(len(rows) for tier in per_tier for rows in tier) - sum(map(len, union))
    assert (overlap == 0) == (tiers == OVERLAPS["no overlap"])
    counts = loss_fn.sampler(batch).counts(batch.anchor_ids)
    assert counts.tolist() == [len(rows) for rows in union]
    ours = loss_fn(*z, indexes=batch.indexes[:SIZE], labels=LABELS)
    reference = naive_loss(z, union, pools)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_whole_pools_stay_the_tensors_that_they_are():
    loss_fn = trained("hierarchical(uniform(num_negatives=4), in_batch(), queue(size=72))")
    batch = batch_of(loss_fn, naive.embeddings(2, SIZE))
    parts = list(loss_fn.sampler(batch).parts())
    queue = loss_fn.sampler.tiers[2]
    assert len(parts) == 2
    assert parts[0].pool is batch.keys
    assert parts[1].pool.data_ptr() == queue._rows.data_ptr()
    assert all(part.columns is None and part.mask is None for part in parts)


def test_all_of_the_batch_in_tiers_is_the_batch():
    z = naive.embeddings(2, SIZE)
    full = ContrastiveLoss("in_batch()", temperature=0.2)(*z)
    for tiers in itertools.permutations(["in_batch()", "gather()", "uniform(num_negatives=3)"]):
        ours = ContrastiveLoss(f"hierarchical({', '.join(tiers)})", temperature=0.2)(*z)
        assert torch.equal(full, ours)
        assert torch.equal(naive.gradients(full, z), naive.gradients(ours, z))


@pytest.mark.parametrize("objective", ["decoupled()", "debiased()"])
def test_other_objectives_see_the_union_too(objective):
    tiers = "uniform(num_negatives=4), queue(size=72), in_batch()"
    z = naive.embeddings(2, SIZE)
    ours = trained(f"hierarchical({tiers})", objective=objective)
    plain = trained("hierarchical(in_batch(), queue(size=72))", objective=objective)
    ours, plain = ours(*z), plain(*z)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(plain, z)) < 1e-12


def test_a_tier_with_mixtures_is_no_overlap():
    source = "synthetic(num_mixed=3, num_mixed_with_anchor=2, num_hardest=4)"
    loss_fn = trained(f"hierarchical(uniform(num_negatives=4), {source}, queue(size=72))")
    batch = batch_of(loss_fn, naive.embeddings(2, SIZE))
    # The queue holds two earlier keys of each anchor's own sample.
    assert (loss_fn.sampler(batch).counts(batch.anchor_ids) == 22 + 3 + 2 + 70).all()


def test_mixtures_over_the_batchs_own_pool_are_no_rows_of_it():
    class Mixing(NegativeSampler):
        """Halves of two neighbours, of the keys themselves."""

        def sample(self, batch):
            plain = make_sampler("uniform(num_negatives=4)").sample(batch)
            shares = torch.full((*plain.columns.shape, 2), 0.5, dtype=batch.keys.dtype)
            partners = (plain.columns + 1) % len(batch.keys)
            return replace(plain, partners=partners, coefficients=shares)

    batch = batch_of(ContrastiveLoss(), naive.embeddings(2, SIZE))
    for tiers in itertools.permutations(["in_batch()", "uniform(num_negatives=9)", Mixing()]):
        samplers = [t if isinstance(t, Mixing) else make_sampler(t) for t in tiers]
        assert (Hierarchical(*samplers)(batch).counts(batch.anchor_ids) == 22 + 4).all()


def test_a_sampler_may_draw_from_the_union():
    tiers = "uniform(num_negatives=8), uniform(num_negatives=9), queue(size=72)"
    loss_fn = trained(f"uniform(num_negatives=20, source=hierarchical({tiers}))")
    z = naive.embeddings(2, SIZE)
    batch = batch_of(loss_fn, z)
    offered = rows_of(loss_fn.sampler.source(batch), batch)
    union = loss_fn.sampler.source(batch).enumerated(batch.anchor_ids)
    drawn = loss_fn.sampler(batch)
    assert torch.equal(drawn.pool, union.pool)
    for i in range(2 * SIZE):
        allowed = union.columns[i][union.mask[i]].tolist()
        assert len(allowed) == len(offered[i])
        chosen = drawn.columns[i].tolist()
        assert len(set(chosen)) == 20
        assert set(chosen) <= set(allowed)
    ours = loss_fn(*z, indexes=batch.indexes[:SIZE], labels=LABELS)
    chosen = [{(0, k) for k in row} for row in drawn.columns.tolist()]
    unit = torch.cat(z) / torch.cat(z).norm(dim=1, keepdim=True)
    own = {k: (drawn.pool[k] == batch.keys).all(1).nonzero() for k in range(len(drawn.pool))}
    pool = [unit[int(at[0])] if len(at) else drawn.pool[k].detach() for k, at in own.items()]
    reference = naive_loss(z, chosen, {0: pool})
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_a_corrected_draw_from_the_union_estimates_its_denominator():
    loss_fn = trained("hierarchical(uniform(num_negatives=8), queue(size=72))")
    batch = batch_of(loss_fn, naive.embeddings(2, SIZE))
    union = loss_fn.sampler(batch)
    full = negative_logsumexp(batch, union, TEMPERATURE).exp()
    drawn = make_sampler("uniform(num_negatives=20, correction=True)")
    drawn.source, rounds, estimates = loss_fn.sampler, 500, []
    drawn.stream = 9
    for step in range(rounds):
        now = replace(batch, draws=Draws(1, step))
        now.memo[loss_fn.sampler] = union
        estimates.append(negative_logsumexp(now, drawn.sample(now), TEMPERATURE).exp().detach())
    estimates = torch.stack(estimates)
    # 24 anchors at six standard errors: a false alarm once in 10⁷ runs.
    assert ((estimates.mean(0) - full).abs() < 6 * estimates.std(0) / rounds**0.5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_give_a_finite_loss(dtype):
    loss_fn = ContrastiveLoss(
        "hierarchical(uniform(num_negatives=4), hard(num_negatives=5), queue(size=72))",
        temperature=0.02,
    )
    for step in range(3):
        z = [v.detach().to(dtype).requires_grad_() for v in naive.embeddings(2, SIZE, seed=step)]
        with torch.autocast("cpu", dtype=dtype):
            loss = loss_fn(*z)
        loss.backward()
        assert loss.isfinite()
        assert all(v.grad.isfinite().all() for v in z)
