"""``uniform``: exact against a loop given the same draws; the draws uniform and legal."""

from __future__ import annotations

import itertools

import naive
import pytest
import torch
from device import DEVICE
from pools import columns_of

from negplug import ContrastiveBatch, ContrastiveLoss, Draws, make_sampler
from negplug.contract.ids import columns_with_same_id, number_of_excluded
from negplug.kernels.random.distinct import distinct_places, places_to_columns_
from negplug.kernels.random.numbers import RandomNumbers


def batch_of(views: int, size: int, step: int = 0) -> ContrastiveBatch:
    batch = ContrastiveBatch.from_views(tuple(naive.embeddings(views, size)))
    return with_step(batch, step)


def with_step(batch: ContrastiveBatch, step: int) -> ContrastiveBatch:
    return batch.within(draws=Draws(seed=7, step=step))


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("num_negatives", [1, 4, 9])
@pytest.mark.parametrize("correction", [False, True])
def test_value_and_gradient_equal_a_loop_over_the_same_draws(views, num_negatives, correction):
    z = naive.embeddings(views, 8)
    text = f"uniform(num_negatives={num_negatives}, correction={correction})"
    loss_fn = ContrastiveLoss(text, temperature=0.3, seed=5)
    batch = ContrastiveBatch.from_views(tuple(z)).within(draws=Draws(seed=5))
    chosen = loss_fn.sampler.sample(batch).choice.columns
    assert chosen.shape == (8 * views, num_negatives)
    weight = views * 7 / num_negatives if correction else 1.0
    ours, reference = loss_fn(*z), naive.simclr(z, 0.3, chosen, weight)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_shared_set_equals_a_loop_over_the_same_set():
    z = naive.embeddings(2, 8)
    loss_fn = ContrastiveLoss("uniform(num_negatives=5, shared=True)", temperature=0.3, seed=5)
    batch = ContrastiveBatch.from_views(tuple(z)).within(draws=Draws(seed=5))
    drawn = loss_fn.sampler.sample(batch)
    keys = batch.keys.embeddings
    rows = [int((keys == row).all(1).nonzero()[0]) for row in drawn.rows.embeddings]
    assert len(set(rows)) == 5
    assert columns_of(drawn) is None
    unit = torch.cat(z) / torch.cat(z).norm(dim=1, keepdim=True)
    losses = []
    for i in range(16):
        push = sum(torch.exp(unit[i] @ unit[k] / 0.3) for k in rows if k % 8 != i % 8)
        pull = torch.exp(unit[i] @ unit[(i + 8) % 16] / 0.3)
        losses.append(-torch.log(pull / (pull + push)))
    reference, ours = torch.stack(losses).mean(), loss_fn(*z)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("correction", [False, True])
def test_all_negatives_reproduce_in_batch_exactly(shared, correction):
    z = naive.embeddings(2, 8)
    full = ContrastiveLoss("in_batch()", temperature=0.2)(*z)
    text = f"uniform(num_negatives=14, shared={shared}, correction={correction})"
    ours = ContrastiveLoss(text, temperature=0.2)(*z)
    assert torch.equal(full, ours)
    assert torch.equal(naive.gradients(full, z), naive.gradients(ours, z))


@pytest.mark.parametrize(("num_negatives", "size"), [(2, 16), (7, 16), (24, 16), (29, 16)])
def test_draws_are_distinct_legal_and_uniform(num_negatives, size):
    # Both ways to draw (few of many, many of few); each column equally often: χ², 1 − 1e-6.
    sampler = make_sampler(f"uniform(num_negatives={num_negatives})")
    total, rounds = 2 * size, 400
    hits = torch.zeros(total, total, device=DEVICE)
    batch = batch_of(2, size)
    for step in range(rounds):
        columns = sampler.sample(with_step(batch, step)).choice.columns
        assert (columns.sort(1).values.diff(dim=1) > 0).all()
        hits.scatter_add_(1, columns, torch.ones_like(columns, dtype=hits.dtype))
    own = torch.arange(total)[:, None] % size == torch.arange(total) % size
    assert hits[own].sum() == 0
    legal = hits[~own].view(total, total - 2)
    expected = rounds * num_negatives / (total - 2)
    # Without replacement the counts vary less than multinomial ones; scale to a χ² variable.
    variance = expected * (1 - num_negatives / (total - 2))
    for row in legal:
        statistic = float(((row - expected) ** 2).sum() / variance) * (total - 3) / (total - 2)
        assert statistic < naive.chi_square_bound(total - 2, 1 - 1e-6 / total)


def test_every_subset_is_equally_likely():
    # Pairs out of 8, and 3-subsets out of 6: exact subset counts.
    for bound, count in ((8, 2), (6, 3)):
        random = RandomNumbers(0, torch.device("cpu"))
        bounds = torch.full((30_000,), bound)
        ranks, mask = distinct_places(bounds, count, random)
        assert mask is None
        seen = {subset: 0 for subset in itertools.combinations(range(bound), count)}
        for row in ranks.sort(1).values.tolist():
            seen[tuple(row)] += 1
        expected = len(ranks) / len(seen)
        statistic = sum((n - expected) ** 2 / expected for n in seen.values())
        assert statistic < naive.chi_square_bound(len(seen))


def test_anchors_draw_on_their_own():
    # Independent draws of 1 out of 30: two anchors agree once in 30 batches.
    sampler = make_sampler("uniform(num_negatives=1)")
    batch = batch_of(2, 16)
    agree = sum(
        int(columns[0] == columns[1])
        for columns in (
            sampler.sample(with_step(batch, step)).choice.columns for step in range(3000)
        )
    )
    assert 50 < agree < 150  # expected 93 (28 common columns of 30²), ± 6 standard deviations


@pytest.mark.parametrize("shared", [False, True])
def test_correction_makes_the_denominator_unbiased(shared):
    from negplug.objectives.logits import negative_logsumexp

    batch = batch_of(2, 12)
    full = negative_logsumexp(batch, make_sampler("in_batch()")(batch), 0.5).exp()
    sampler = make_sampler(f"uniform(num_negatives=3, shared={shared}, correction=True)")
    rounds = 1500
    estimates = torch.stack(
        [
            negative_logsumexp(b, sampler(b), 0.5).exp().detach()
            for b in (with_step(batch, step) for step in range(rounds))
        ]
    )
    error = (estimates.mean(0) - full).abs() / (estimates.std(0) / rounds**0.5)
    # 24 anchors at six standard errors: a false alarm once in 10⁷ runs.
    assert (error < 6).all()
    plain = make_sampler(f"uniform(num_negatives=3, shared={shared})")
    assert negative_logsumexp(batch, plain(batch), 0.5).exp().mean() < 0.5 * full.mean()


@pytest.mark.parametrize("copies", [1, 3])
def test_rank_maps_to_the_column_that_is_not_excluded(copies):
    ids = torch.tensor([0, 1, 0, 2, 1, 1, 3, 0, 2]).repeat(copies)
    excluded, own = columns_with_same_id(ids, ids)
    for i, count in enumerate(own.tolist()):
        legal = [k for k in range(len(ids)) if ids[k] != ids[i]]
        ranks = torch.arange(len(ids) - count)[None]
        assert places_to_columns_(ranks, excluded[i : i + 1])[0].tolist() == legal


def test_unknown_ids_equal_nothing():
    anchor_ids, pool_ids = torch.tensor([-1, 4]), torch.tensor([-1, 4, -1, 5, 4])
    _, own = columns_with_same_id(anchor_ids, pool_ids)
    assert own.tolist() == [0, 2]
    assert number_of_excluded(anchor_ids, pool_ids, same=False).tolist() == [0, 2]
    for same in (False, True):
        assert number_of_excluded(pool_ids, pool_ids, same).tolist() == [0, 2, 0, 1, 2]


def test_more_than_a_full_batch_supplies_is_an_error_that_says_how_many():
    z = naive.embeddings(2, 8)
    with pytest.raises(ValueError, match=r"num_negatives=15 is more than the 14 negatives"):
        ContrastiveLoss("uniform(num_negatives=15)")(*z)


def test_an_evaluation_before_training_may_be_small():
    loss_fn = ContrastiveLoss("uniform(num_negatives=10)", temperature=0.2)
    small = naive.embeddings(2, 3)
    with torch.no_grad(), pytest.warns(UserWarning, match="offers (4|at most 6) negatives"):
        assert loss_fn(*small) == ContrastiveLoss("in_batch()", temperature=0.2)(*small)
    loss_fn(*naive.embeddings(2, 8))


@pytest.mark.parametrize("shared", [False, True])
def test_a_ragged_last_batch_uses_what_there_is_and_says_so(shared):
    loss_fn = ContrastiveLoss(f"uniform(num_negatives=10, shared={shared})", temperature=0.2)
    loss_fn(*naive.embeddings(2, 8))
    ragged = naive.embeddings(2, 3)
    with pytest.warns(UserWarning, match="offers 4 negatives instead of num_negatives=10"):
        ours = loss_fn(*ragged)
    assert torch.equal(ours, ContrastiveLoss("in_batch()", temperature=0.2)(*ragged))


def test_label_rich_anchors_draw_what_they_have():
    # Ids as labels: anchors of the large class have 3 negatives, the others 7 and more.
    ids = torch.tensor([0] * 9 + [1] * 2 + [2], device=DEVICE)
    z = naive.embeddings(1, 12)
    unit = torch.nn.functional.normalize(z[0], dim=1)
    batch = ContrastiveBatch.from_ids(unit, ids)
    drawn = make_sampler("uniform(num_negatives=5)").sample(batch)
    assert drawn.counts(batch.anchors).tolist() == [3] * 9 + [5] * 3
    for i in range(12):
        columns = drawn.choice.columns[i][drawn.mask[i]].tolist()
        assert len(set(columns)) == len(columns)
        assert all(ids[k] != ids[i] for k in columns)


def test_a_source_that_chooses_can_be_sampled_again():
    batch = batch_of(2, 16)
    outer = make_sampler("uniform(num_negatives=3, source=uniform(num_negatives=12))")
    for number, module in enumerate(outer.modules()):
        module.stream = number
    inner = outer.source.sample(batch).choice.columns
    drawn = outer.sample(batch).choice.columns
    assert drawn.shape == (32, 3)
    for i in range(32):
        assert set(drawn[i].tolist()) <= set(inner[i].tolist())
        assert len(set(drawn[i].tolist())) == 3
