"""``stratified``: draws uniform inside each stratum, exact against loops over the same draws."""

from __future__ import annotations

import itertools

import naive
import pytest
import torch
from choosing import (
    Given,
    batch_of,
    integers,
    numbered,
    offers,
    repeated,
    unit,
    with_unknown_anchor,
)
from device import DEVICE
from pools import only

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Draws,
    Negatives,
    NegativeSampler,
    Rows,
    make_sampler,
)
from negplug.objectives.logits import negative_logsumexp
from negplug.samplers.stratified import Stratified

LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, -1, -1, 5]


@pytest.mark.parametrize("source", ["in_batch()", "uniform(22)", "filtered(similarity=0.4)", "any"])
@pytest.mark.parametrize(("same", "count"), [(0.5, 8), (1.0, 3), (0.0, 5), (0.25, 9)])
@pytest.mark.filterwarnings("ignore:stratified")
def test_draws_are_distinct_legal_and_of_the_right_strata(source, same, count):
    batch = with_unknown_anchor(batch_of(14, labels=LABELS))
    if source == "any":
        # Rows of an anchor's id in every stratum.
        pool_ids = batch.anchors.ids[integers(0, 5, 60)]
        rows = Rows(unit(60), pool_ids, labels=integers(-1, 6, 60, seed=2))
        inner: NegativeSampler = Given(Negatives(rows))
    else:
        inner = make_sampler(source)
    drawn = numbered(Stratified(count, same=same, source=inner)).sample(batch)
    offered = only(inner(batch))
    asked = round(same * count)
    assert drawn.choice.columns.shape[1] <= count
    for i, (row, legal) in enumerate(
        zip(offers(drawn, batch), offers(offered, batch), strict=True)
    ):
        columns, legal = [column for column, _ in row], {column for column, _ in legal}
        assert len(set(columns)) == len(columns)
        assert set(columns) <= legal
        label = int(batch.anchors.labels[i])
        mates = {c for c in legal if label != -1 and int(offered.rows.labels[c]) == label}
        assert len(mates & set(columns)) == min(asked, len(mates))
        assert len(set(columns) - mates) == min(count - asked, len(legal - mates))


@pytest.mark.parametrize("source", ["in_batch()", "filtered(similarity=1.0)"])
@pytest.mark.filterwarnings("ignore:stratified")
def test_every_subset_of_each_stratum_is_equally_likely(source):
    # Own stratum: 2 of 4; others: 3 of 8. χ² for each of 6 anchors and 2 parts, 1 − 1e-6 together.
    rounds = 3000
    batch = repeated(batch_of(7, labels=[0, 0, 0, 1, 1, 2, -1]), rounds)
    drawn = numbered(Stratified(5, same=0.4, source=make_sampler(source))).sample(batch)
    draws = drawn.choice.columns.view(rounds, 14, 5)
    of_label_0 = [0, 1, 2, 7, 8, 9]
    outside = [k for k in range(14) if k not in of_label_0]
    for i in of_label_0:
        inside = [k for k in of_label_0 if k % 7 != i % 7]
        for members, part in ((inside, draws[:, i, :2]), (outside, draws[:, i, 2:])):
            seen = {subset: 0 for subset in itertools.combinations(members, part.shape[1])}
            for row in part.sort(1).values.tolist():
                seen[tuple(row)] += 1
            expected = rounds / len(seen)
            statistic = sum((n - expected) ** 2 / expected for n in seen.values())
            assert statistic < naive.chi_square_bound(len(seen), 1 - 1e-6 / 12)


@pytest.mark.parametrize("source", ["in_batch()", "uniform(num_negatives=16, correction=True)"])
@pytest.mark.filterwarnings("ignore:stratified")
def test_correction_makes_the_denominator_unbiased(source):
    batch = batch_of(12, labels=[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, -1, 3])
    # 3 of the own stratum, which has 8, 4, 2 or none, and 2 of the others.
    full = negative_logsumexp(batch, make_sampler("in_batch()")(batch), 0.5).exp()
    rounds = 1500
    many = repeated(batch, rounds)

    def denominators(correction: bool, source: str) -> torch.Tensor:
        sampler = Stratified(5, same=0.6, correction=correction, source=make_sampler(source))
        drawn = numbered(sampler)(many)
        return negative_logsumexp(many, drawn, 0.5).exp().view(rounds, -1)

    estimates = denominators(True, source)
    error = (estimates.mean(0) - full).abs() / (estimates.std(0) / rounds**0.5)
    # 24 anchors at six standard errors: a false alarm once in 10⁷ runs.
    assert (error < 6).all()
    assert denominators(False, "in_batch()").mean() < 0.5 * full.mean()


def test_weights_are_what_is_there_by_what_is_drawn():
    # 3 of 4 of the own stratum and 3 of 4 others; for the smaller label, both of 2 and 3 of 6.
    batch = batch_of(5, labels=[0, 0, 0, 1, 1])
    with pytest.warns(UserWarning, match="stratum 1 has 2 of the 3"):
        drawn = Stratified(6, correction=True).sample(batch)
    weights = [
        row[keep].tolist() for row, keep in zip(drawn.log_weight.exp(), drawn.mask, strict=True)
    ]
    large, small = [4 / 3] * 6, [1.0] * 2 + [2.0] * 3
    assert weights == [pytest.approx(row) for row in ([large] * 3 + [small] * 2) * 2]


def test_stratified_loss_and_gradient_equal_a_loop_over_the_same_draws():
    z, labels = naive.embeddings(2, 8), torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    loss_fn = ContrastiveLoss("stratified(num_negatives=4)", temperature=0.3, seed=5)
    batch = ContrastiveBatch.from_views(tuple(z), labels=labels)
    chosen = loss_fn.sampler.sample(batch.within(draws=Draws(seed=5))).choice.columns
    ours, reference = loss_fn(*z, labels=labels), naive.simclr(z, 0.3, chosen)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


@pytest.mark.parametrize(
    "expression",
    [
        "stratified(num_negatives=4)",
        "uniform(num_negatives=2, source=hard(num_negatives=6))",
        "filtered(uniform(num_negatives=6), similarity=0.3)",
        "stratified(num_negatives=4, source=filtered(uniform(num_negatives=13), similarity=0.9))",
    ],
)
@pytest.mark.filterwarnings("ignore:stratified")
def test_draws_repeat_under_a_seed_and_leave_the_global_generator_alone(expression):
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    z = [naive.embeddings(2, 8, seed=step) for step in range(3)]

    def run(seed: int) -> list[float]:
        loss_fn = ContrastiveLoss(expression, seed=seed)
        return [loss_fn(*views, labels=labels).item() for views in z]

    state = torch.get_rng_state()
    first = run(1)
    assert first == run(1)
    assert first != run(2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.filterwarnings("ignore:stratified")
def test_a_whole_pool_is_divided_as_a_loop_does(seed):
    # Anchors with no, one or many rows of their own id, anywhere among the strata: everything is
    # drawn, so that the parts themselves are seen, and then few, which have to be of them.
    ids = integers(-1, 6, 9, seed=seed)
    rows = 5 + 4 * seed
    four = torch.full((4,), 2, device=DEVICE)
    pool_ids = torch.cat([integers(-1, 9, rows, seed=100 + seed), four])
    rows += 4
    labels, pool_labels = integers(-1, 4, 9, seed=seed), integers(-1, 5, rows, seed=7 + seed)
    batch = ContrastiveBatch.from_ids(
        unit(9), ids, unit(9), ids, torch.arange(9, device=DEVICE), labels=labels, lasting=True
    )
    part = Negatives(Rows(unit(rows), pool_ids, labels=pool_labels))
    everything = numbered(Stratified(2 * rows, source=Given(part))).sample(batch)
    few = numbered(Stratified(6, same=0.5, source=Given(part))).sample(batch)
    excluded = set()
    for i, name in enumerate(ids.tolist()):
        legal = {k for k in range(rows) if name == -1 or int(pool_ids[k]) != name}
        excluded.add(rows - len(legal))
        label = int(labels[i])
        mates = {k for k in legal if label != -1 and int(pool_labels[k]) == label}
        drawn = [column for column, _ in offers(everything, batch)[i]]
        assert sorted(drawn) == sorted(legal)
        assert set(drawn[: len(mates)]) == mates
        drawn = [column for column, _ in offers(few, batch)[i]]
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= legal
        assert len(mates & set(drawn)) == min(3, len(mates))
        assert len(set(drawn) - mates) == min(3, len(legal - mates))
    assert len(excluded) > 1
