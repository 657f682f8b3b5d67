"""``hierarchical``: the union of its tiers, each row once; equal memories are one."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import naive
import pytest
import ranks
import torch

from negplug import ContrastiveBatch, ContrastiveLoss, Draws, NegativeSampler, make_sampler
from negplug.contract.adapter import LossSite
from negplug.contract.ids import comparable_ids
from negplug.objectives.logits import negative_logsumexp
from negplug.samplers.hierarchical import Hierarchical

SIZE, TEMPERATURE = 12, 0.3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 3, 4])

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


def trained(text, steps=3, **arguments):
    """A loss after some steps, whose memories hold what these left."""
    loss_fn = ContrastiveLoss(text, temperature=TEMPERATURE, seed=5, **arguments)
    for step in range(steps):
        z = naive.embeddings(2, SIZE, seed=100 + step)
        loss_fn(*z, indexes=100 * step + torch.arange(SIZE), labels=LABELS).backward()
    loss_fn.state_dict()  # applies what is pending
    return loss_fn


def batch_of(loss_fn, z):
    """The batch of the next step, as in an evaluation: no memory takes it in."""
    z = tuple(view.detach() for view in z)
    batch = ContrastiveBatch.from_views(z, indexes=torch.arange(SIZE), labels=LABELS)
    return replace(batch, draws=Draws(5, loss_fn.get_extra_state()["step"]))


def rows_of(negatives, batch):
    """For each anchor the rows of its negatives, with repeats, as (pool, column)."""
    ids = comparable_ids(batch.anchor_ids)
    rows = [[] for _ in ids]
    for part in negatives.parts():
        for i in range(len(ids)):
            if part.columns is None:
                slots = [(k, k) for k in range(len(part.pool)) if part.pool_ids[k] != ids[i]]
            else:
                slots = list(enumerate(part.columns[i].tolist()))
            kept = [k for m, k in slots if part.mask is None or part.mask[i, m]]
            rows[i] += [(id(part.pool), k) for k in kept]
    return rows


def naive_loss(z, chosen, pools):
    """InfoNCE with a set of (pool, column) for each anchor; the batch's own pool is None."""
    unit = torch.cat(z) / torch.cat(z).norm(dim=1, keepdim=True)
    losses = []
    for i, rows in enumerate(chosen):
        keys = [unit[k] if pools[p] is None else pools[p][k] for p, k in rows]
        push = sum(torch.exp(unit[i] @ key / TEMPERATURE) for key in keys)
        pull = torch.exp(unit[i] @ unit[(i + SIZE) % (2 * SIZE)] / TEMPERATURE)
        losses.append(-torch.log(pull / (pull + push)))
    return torch.stack(losses).mean()


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


def test_equal_memories_are_one():
    sampler = make_sampler(
        "hierarchical(uniform(num_negatives=3, source=queue(size=48)), "
        "hard(num_negatives=2, source=uniform(num_negatives=5, source=queue(size=48))), "
        "queue(size=48), queue(size=48, gather=False), queue(size=72), queue(), queue(), "
        "memory_bank(), memory_bank(momentum=0.9), memory_bank(num_negatives=4))"
    )
    tiers = list(sampler.tiers)
    first = tiers[0].source
    assert tiers[1].source.source is first
    assert tiers[2] is first
    assert tiers[3] is not first
    assert tiers[5] is tiers[6]
    assert tiers[9].source is tiers[7]
    # Four queues and two banks are left, read by a hierarchical, a hard and three uniform ones.
    assert len(list(sampler.all_samplers())) == 4 + 2 + 5


def test_a_shared_queue_takes_a_step_in_once_and_is_saved_once():
    queue = "queue(size=96)"
    loss_fn = trained(
        f"hierarchical(uniform(num_negatives=3, source={queue}), uniform(num_negatives=9), {queue})"
    )
    shared = loss_fn.sampler.tiers[2]
    assert shared._count == 3 * 2 * SIZE
    alone = trained("queue(size=96)").sampler
    assert torch.equal(shared._rows[: shared._count], alone._rows[: alone._count])
    state = loss_fn.state_dict()
    saved = [value["rows"] for key, value in state.items() if "rows" in (value or {})]
    assert len(saved) == 2
    assert saved[0] is saved[1]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    resumed = ContrastiveLoss(str(loss_fn.sampler), temperature=TEMPERATURE, seed=5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    z = naive.embeddings(2, SIZE)
    for _ in range(2):
        one, other = loss_fn(*z), resumed(*z)
        assert torch.equal(one, other)
        one.backward()
        other.backward()


def test_the_second_call_of_a_step_has_a_shared_queue_of_its_own():
    loss_fn = ContrastiveLoss(
        "hierarchical(uniform(num_negatives=3, source=queue(size=96)), queue(size=96))", seed=5
    )
    for step in range(2):
        both = [naive.embeddings(2, SIZE, seed=10 * step + call) for call in range(2)]
        batches = [ContrastiveBatch.from_views(tuple(z)) for z in both]
        sum(loss_fn.contrast(batch) for batch in batches).backward()
        loss_fn.end_step()
    first, second = loss_fn.sampler.tiers[1], loss_fn.further[0].sampler.tiers[1]
    assert loss_fn.further[0].sampler.tiers[0].source is second
    assert first._count == second._count == 2 * 2 * SIZE
    assert not torch.equal(first._rows[:48], second._rows[:48])


class Site(LossSite):
    """A host's loss with a queue of 32."""

    name, host, queue_size = "criterion", "a host", 32

    def treat(self, contrast):
        raise NotImplementedError

    def restore(self):
        raise NotImplementedError


def test_a_later_tier_is_checked_against_the_hosts_queue():
    text = "hierarchical(uniform(num_negatives=4, source=queue()), {})"
    later = "uniform(num_negatives={}, source=queue())"
    loss_fn = ContrastiveLoss(text.format(later.format(32)), site=Site())
    assert loss_fn.sampler.most == 4 + 32
    with pytest.raises(ValueError, match="num_negatives=33 is more than the 32 rows"):
        ContrastiveLoss(text.format(later.format(33)), site=Site())


def test_most_is_the_sum_or_left_to_the_batch():
    assert make_sampler("hierarchical(queue(size=8), uniform(num_negatives=3))").most == 11
    assert make_sampler("hierarchical(queue(size=8), in_batch())").most is None
    with pytest.raises(ValueError, match="num_negatives=12 is more than the 11 rows"):
        make_sampler(
            "uniform(num_negatives=12, "
            "source=hierarchical(queue(size=8), uniform(num_negatives=3)))"
        )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("hierarchical()", ValueError, "needs two tiers or more, got 0"),
        ("hierarchical(in_batch())", ValueError, "needs two tiers or more, got 1"),
        ("hierarchical(in_batch(), 3)", TypeError, "tier 2 must be a sampler, got 3"),
        ("hierarchical('queue', in_batch())", TypeError, "tier 1 must be a sampler, got 'queue'"),
        ("hierarchical(in_batch(), in_batch(), source=in_batch())", ValueError, "source"),
    ],
)
def test_what_is_no_tier_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        make_sampler(text)


@pytest.mark.parametrize(
    "tiers",
    [
        "uniform(num_negatives=4, correction=True), in_batch()",
        "uniform(num_negatives=4), uniform(num_negatives=4, correction=True)",
        "filtered(by='labels'), uniform(num_negatives=4, correction=True)",
    ],
)
def test_weights_of_rows_that_tiers_may_share_are_refused(tiers):
    z = naive.embeddings(2, SIZE)
    with pytest.raises(ValueError, match="the weight of a row in both is not defined"):
        ContrastiveLoss(f"hierarchical({tiers})")(*z, labels=LABELS)


def test_weights_in_pools_apart_are_kept():
    weighted = "uniform(num_negatives=4, correction=True)"
    ours = trained(f"hierarchical({weighted}, queue(size=72))")
    batch = batch_of(ours, naive.embeddings(2, SIZE))
    first, second = ours.sampler(batch).parts()
    torch.testing.assert_close(
        first.log_weight.exp(), torch.full((2 * SIZE, 1), 22 / 4, dtype=torch.float64)
    )
    assert second.log_weight is None


def test_draws_from_the_softmax_are_refused():
    class Posterior(NegativeSampler):
        def sample(self, batch):
            return replace(make_sampler("in_batch()").sample(batch), estimator="posterior")

    sampler = Hierarchical(make_sampler("in_batch()"), Posterior())
    batch = ContrastiveBatch.from_views(tuple(naive.embeddings(2, SIZE)))
    with pytest.raises(ValueError, match=r"tier 2, Posterior\(\), draws from the softmax"):
        sampler(batch)


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


def of_this_rank(rank, world, text, steps=1):
    """Losses and gradients of uneven batches on one rank."""
    loss_fn = ContrastiveLoss(text, temperature=TEMPERATURE, seed=5)
    found = []
    for step in range(steps):
        z = naive.embeddings(2, SIZE - 3 * rank, seed=10 * step + rank)
        loss = loss_fn(*z)
        found.append((loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, z)])))
    return found


@pytest.mark.parametrize(
    "tiers",
    [
        "in_batch(), gather()",
        "gather(), in_batch()",
        "uniform(num_negatives=3), gather()",
        "gather(), uniform(num_negatives=3), in_batch()",
        "uniform(num_negatives=3, source=gather()), uniform(num_negatives=3), gather()",
    ],
)
def test_keys_of_this_rank_are_among_the_gathered_ones(tiers):
    ours = ranks.run(of_this_rank, 2, f"hierarchical({tiers})")
    plain = ranks.run(of_this_rank, 2, "gather()")
    for one, other in zip(ours, plain, strict=True):
        assert one[0][0] == other[0][0]
        assert torch.equal(one[0][1], other[0][1])


def tiers_of_this_rank(rank, world, tiers):
    """The union of the tiers as columns of the gathered keys, by a loop; and what was made."""
    sampler = make_sampler(f"hierarchical({tiers})")
    for number, part in enumerate(sampler.all_samplers()):
        part.stream = number
    z = naive.embeddings(2, SIZE - 3 * rank, seed=rank)
    size = len(z[0])
    labels = LABELS[:size]
    batch = ContrastiveBatch.from_views(tuple(z), 50 * rank + torch.arange(size), labels)
    batch = replace(batch, draws=Draws(5, rank=rank))
    made = sampler(batch)
    everywhere = batch.gathered().keys.detach()

    def columns(negatives):
        rows = [[] for _ in batch.anchors]
        for part in negatives.parts():
            one = rows_of(part, batch)
            for i, chosen in enumerate(one):
                for _, k in chosen:
                    (at,) = (everywhere == part.pool[k].detach()).all(1).nonzero().tolist()
                    rows[i].append(at[0])
        return [sorted(row) for row in rows]

    each = [columns(tier(batch)) for tier in sampler.tiers]
    union = [sorted(set().union(*rows)) for rows in zip(*each, strict=True)]
    return columns(made), union, sum(len(row) for tier in each for row in tier)


@pytest.mark.parametrize(
    "tiers",
    [
        "uniform(num_negatives=6), uniform(num_negatives=25, source=gather())",
        "uniform(num_negatives=25, source=gather()), uniform(num_negatives=6)",
        "in_batch(), uniform(num_negatives=25, source=gather())",
        "in_batch(), filtered(by='labels', source=gather())",
        "filtered(by='labels'), filtered(similarity=0.1, source=gather())",
        "filtered(by='labels'), uniform(num_negatives=25, source=gather())",
    ],
)
def test_local_and_gathered_tiers_overlap_on_every_rank(tiers):
    for made, union, number in ranks.run(tiers_of_this_rank, 2, tiers):
        assert made == union
        assert sum(map(len, made)) < number


def test_gathering_tiers_and_queues_train_on_two_ranks():
    text = (
        "hierarchical(uniform(num_negatives=3, source=gather()), "
        "uniform(num_negatives=4, source=queue(size=96)), queue(size=96, gather=False))"
    )
    for found in ranks.run(of_this_rank, 2, text, 3):
        assert len(found) == 3
        assert all(gradient.isfinite().all() for _, gradient in found)
