"""``hard``, ``filtered`` and ``stratified``: exact against loops, and stratified draws uniform."""

from __future__ import annotations

import itertools
import sys
import warnings
from dataclasses import replace

import hosts
import naive
import numpy as np
import pytest
import ranks
import torch

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Draws,
    Negatives,
    NegativeSampler,
    make_sampler,
)
from negplug.kernels.pool import tiled
from negplug.objectives.logits import negative_logsumexp
from negplug.samplers.filtered import Filtered
from negplug.samplers.hard import Hard, hardest
from negplug.samplers.stratified import Stratified


class Given(NegativeSampler):
    """A source that offers what the test wrote down."""

    def __init__(self, negatives: Negatives) -> None:
        super().__init__()
        self.negatives = negatives

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        return self.negatives


def unit(rows: int, seed: int = 3, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(z, dim=1)


def integers(low: int, high: int, *shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def batch_of(size: int, labels=None, views: int = 2, step: int = 0, **known) -> ContrastiveBatch:
    labels = None if labels is None else torch.as_tensor(labels)
    views = tuple(naive.embeddings(views, size))
    batch = ContrastiveBatch.from_views(views, labels=labels, **known)
    return replace(batch, draws=Draws(seed=7, step=step))


def repeated(batch: ContrastiveBatch, times: int) -> ContrastiveBatch:
    """The same anchors over and over, against the same keys: as many independent draws."""
    return replace(
        batch,
        anchors=batch.anchors.detach().repeat(times, 1),
        keys=batch.keys.detach(),
        anchor_ids=batch.anchor_ids.repeat(times),
        positives=batch.positives.repeat(times, 1),
        self_columns=batch.self_columns.repeat(times),
        labels=batch.labels.repeat(times),
    )


def with_unknown_anchor(batch: ContrastiveBatch) -> ContrastiveBatch:
    """The batch with an anchor of which nobody knows who it is."""
    number = torch.arange(len(batch.anchors))
    return replace(batch, anchor_ids=batch.anchor_ids.where(number != 1, -1))


def numbered(sampler: NegativeSampler) -> NegativeSampler:
    for number, part in enumerate(sampler.all_samplers()):
        part.stream = number
    return sampler


def offers(part: Negatives, batch: ContrastiveBatch) -> list[list[tuple[int, float]]]:
    """Per anchor (pool column, log weight) of everything that one pool offers, by loops."""
    rows = []
    for i, name in enumerate(batch.anchor_ids.tolist()):
        width = len(part.pool) if part.columns is None else part.columns.shape[1]
        row = []
        for slot in range(width):
            column = slot if part.columns is None else int(part.columns[i, slot])
            if part.columns is None and name != -1 and int(part.pool_ids[column]) == name:
                continue
            if part.mask is not None and not part.mask[i, slot]:
                continue
            weight = part.log_weight
            if weight is None:
                row.append((column, 0.0))
            else:
                wide = weight.expand(len(batch.anchors), width)
                row.append((column, float(wide[i, slot])))
        rows.append(row)
    return rows


def similarity(batch: ContrastiveBatch, part: Negatives, i: int, column: int) -> float:
    return float(batch.anchors[i].detach() @ part.pool[column].detach())


def random_part(batch: ContrastiveBatch, form: str, rows: int = 23) -> Negatives:
    """Negatives in every form that a source may give: ids, labels, masks and weights included."""
    count = len(batch.anchors)
    common = {
        "pool": unit(rows, seed=8),
        "pool_ids": torch.cat([batch.anchor_ids, batch.anchor_ids.new_tensor([-1])])[
            integers(0, count + 1, rows)
        ],
        "pool_labels": integers(-1, 3, rows, seed=9),
        "pool_indexes": torch.arange(rows),
    }
    columns = torch.stack(
        [torch.randperm(rows, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    )[:, :11]
    weights = torch.linspace(-1, 1, count * rows, dtype=torch.float64).view(count, rows)
    return Negatives(
        **common
        | {
            "whole": {},
            "masked": {"mask": integers(0, 3, count, rows) > 0},
            "weighted": {"log_weight": weights},
            "chosen": {"columns": columns},
            "chosen-masked": {
                "columns": columns,
                "mask": integers(0, 3, count, 11) > 0,
                "log_weight": weights[:1, :11],
            },
        }[form]
    )


FORMS = ["whole", "masked", "weighted", "chosen", "chosen-masked"]


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that every pool of these tests takes several, the last ones ragged."""
    monkeypatch.setattr(tiled, "_ROWS", 5)
    monkeypatch.setattr(tiled, "_COLUMNS", 4)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3, 6])
def test_hard_takes_the_most_similar_of_every_form_of_source(form, count):
    batch = with_unknown_anchor(batch_of(6))
    part = random_part(batch, form)
    chosen = Hard(count, Given(part)).sample(batch)
    for i, (ours, offered) in enumerate(
        zip(offers(chosen, batch), offers(part, batch), strict=True)
    ):
        by_similarity = sorted(offered, key=lambda entry: -similarity(batch, part, i, entry[0]))
        assert ours == by_similarity[:count]
    columns, mask = hardest(batch, replace(part, log_weight=None), count)
    assert torch.equal(columns, chosen.columns)
    assert (mask is None) == (chosen.mask is None)
    assert not columns.requires_grad


@pytest.mark.usefixtures("small_tiles")
def test_hardest_masks_what_an_anchor_lacks_and_takes_an_empty_pool():
    batch = batch_of(2)
    part = Negatives(pool=unit(6), pool_ids=batch.anchor_ids[[0, 0, 0, 0, 1, 1]])
    columns, mask = hardest(batch, part, 4)
    assert columns.shape == (4, 4)
    assert mask.sum(1).tolist() == [2, 4, 2, 4]
    assert set(columns[0][mask[0]].tolist()) == {4, 5}
    everything, _ = hardest(batch, part, 100)
    assert everything.shape == (4, 6)
    empty = Negatives(pool=unit(6)[:0], pool_ids=part.pool_ids[:0])
    assert hardest(batch, empty, 4)[0].shape == (4, 0)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_hard_loss_and_gradient_equal_a_loop(views, count):
    z = naive.embeddings(views, 7)
    rows = torch.cat(z).detach()
    rows = rows / rows.norm(dim=1, keepdim=True)
    number = torch.arange(len(rows))
    scores = (rows @ rows.T).masked_fill(number[:, None] % 7 == number % 7, -2)
    reference = naive.simclr(z, 0.3, scores.argsort(1, descending=True)[:, :count])
    ours = ContrastiveLoss(f"hard(num_negatives={count})", temperature=0.3)(*z)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_hard_over_several_pools_is_the_hardest_of_all():
    batch = batch_of(6)
    first = random_part(batch, "whole")
    # The same rows in another order, so that every column of the union can be told apart.
    second = replace(random_part(batch, "chosen-masked"), pool=unit(23, seed=21))
    empty = Negatives(pool=unit(1)[:0], pool_ids=batch.anchor_ids[:0])
    union = replace(first, others=(second, empty))
    chosen = Hard(4, Given(union)).sample(batch)
    assert torch.equal(chosen.pool, torch.cat([first.pool, second.pool]))
    for i, ours in enumerate(offers(chosen, batch)):
        both = [(similarity(batch, first, i, c), c, w) for c, w in offers(first, batch)[i]]
        both += [(similarity(batch, second, i, c), c + 23, w) for c, w in offers(second, batch)[i]]
        assert ours == [(c, w) for _, c, w in sorted(both, reverse=True)[:4]]


def test_hard_asks_for_no_more_than_there_is():
    z = naive.embeddings(2, 8)
    with pytest.raises(ValueError, match=r"hard: num_negatives=15 is more than the 14 negatives"):
        ContrastiveLoss("hard(num_negatives=15)")(*z)
    with pytest.raises(ValueError, match=r"more than the 3 rows that uniform\(num_negatives=3\)"):
        make_sampler("hard(num_negatives=4, source=uniform(num_negatives=3))")
    with pytest.raises(ValueError, match=r"more than the 32 rows that filtered\(queue"):
        make_sampler("hard(num_negatives=40, source=filtered(queue(size=32), similarity=0.5))")
    loss_fn = ContrastiveLoss("hard(num_negatives=10)", temperature=0.2)
    loss_fn(*z)
    ragged = naive.embeddings(2, 3)
    with pytest.warns(UserWarning, match="hard: a ragged batch offers 4 negatives"):
        ours = loss_fn(*ragged)
    assert torch.equal(ours, ContrastiveLoss("in_batch()", temperature=0.2)(*ragged))


@pytest.mark.parametrize("name", ["hard", "stratified"])
def test_a_size_that_the_host_gives_is_held_against_m(name):
    sampler = make_sampler(f"{name}(num_negatives=40, source=queue())")
    sampler.source.size = 32
    with pytest.raises(ValueError, match=f"{name}: num_negatives=40 is more than the 32 rows"):
        sampler.fit_host(None)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("by", "threshold"), [("labels", None), (None, 0.1), ("labels", 0.1)])
def test_filtered_keeps_what_a_loop_keeps(form, by, threshold):
    batch = with_unknown_anchor(batch_of(6, labels=[0, 1, 2, -1, 1, 0]))
    part = random_part(batch, form)
    kept = Filtered(Given(part), by=by, similarity=threshold).sample(batch)
    removed = 0
    for i, offered in enumerate(offers(part, batch)):
        expected = []
        for column, weight in offered:
            label = int(batch.labels[i])
            mate = by is not None and label != -1 and int(part.pool_labels[column]) == label
            near = threshold is not None and similarity(batch, part, i, column) > threshold
            if not (mate or near):
                expected.append((column, weight))
        removed += len(offered) - len(expected)
        assert offers(kept, batch)[i] == expected
    assert removed > 10
    assert kept.counts(batch.anchor_ids).tolist() == [len(row) for row in offers(kept, batch)]


def test_what_equals_the_threshold_is_kept():
    axes = torch.eye(4, dtype=torch.float64)
    batch = ContrastiveBatch.from_pairs(axes, axes)
    assert Filtered(similarity=1e-9).sample(batch).mask.sum() == 12
    doubled = ContrastiveBatch.from_pairs(axes[[0, 0, 1]], axes[[0, 0, 1]])
    assert Filtered(similarity=1.0).sample(doubled).mask.sum() == 6
    assert Filtered(similarity=0.999).sample(doubled).mask.sum() == 4


def test_filtered_loss_and_gradient_equal_a_loop():
    z, labels = naive.embeddings(2, 8), torch.tensor([0, 1, 0, -1, 2, 0, -1, 1])
    rows = torch.cat(z) / torch.cat(z).norm(dim=1, keepdim=True)
    losses = []
    for i in range(16):
        scores = torch.exp(rows @ rows[i] / 0.3)
        push = sum(
            scores[k]
            for k in range(16)
            if k % 8 != i % 8
            and (labels[i % 8] == -1 or labels[k % 8] != labels[i % 8])
            and rows[i] @ rows[k] <= 0.2
        )
        positive = scores[(i + 8) % 16]
        losses.append(-torch.log(positive / (positive + push)))
    reference = torch.stack(losses).mean()
    sampler = "filtered(by='labels', similarity=0.2)"
    ours = ContrastiveLoss(sampler, temperature=0.3)(*z, labels=labels)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_filters_every_pool_of_a_source():
    batch = batch_of(6, labels=[0, 1, 2, -1, 1, 0])
    parts = [random_part(batch, "whole"), random_part(batch, "chosen-masked", rows=20)]
    both = Filtered(Given(replace(parts[0], others=(parts[1],))), by="labels").sample(batch)
    for ours, part in zip(both.parts(), parts, strict=True):
        alone = Filtered(Given(part), by="labels").sample(batch)
        assert offers(ours, batch) == offers(alone, batch)


def test_unknown_labels_filter_nothing():
    z = naive.embeddings(2, 8)
    unknown = torch.full((8,), -1)
    ours = ContrastiveLoss("filtered(by='labels')", temperature=0.2)(*z, labels=unknown)
    torch.testing.assert_close(ours, ContrastiveLoss("in_batch()", temperature=0.2)(*z))


def test_a_filter_that_leaves_nothing_says_so():
    z = naive.embeddings(2, 4)
    with pytest.warns(UserWarning, match="leaves no anchor of a batch a negative"):
        loss = ContrastiveLoss("filtered(by='labels')")(*z, labels=torch.zeros(4).long())
    loss.backward()
    assert loss.item() == 0.0
    with warnings.catch_warnings():
        # One that has nothing to filter yet is fine.
        warnings.simplefilter("error")
        ContrastiveLoss("filtered(queue(size=8), similarity=0.5)")(*z)


def test_rows_of_a_queue_keep_their_labels():
    loss_fn = ContrastiveLoss("hard(2, filtered(queue(size=16), by='labels'))", temperature=0.3)
    steps = [naive.embeddings(2, 4, seed=seed) for seed in range(3)]
    labels = [torch.tensor(each) for each in ([0, 1, 2, -1], [1, 1, 0, 3], [0, 1, -1, 2])]
    for z, label in zip(steps, labels, strict=True):
        ours = loss_fn(*z, labels=label)
        ours.backward()
        loss_fn.end_step()
    past = torch.cat([view for z in steps[:2] for view in z]).detach()
    past = past / past.norm(dim=1, keepdim=True)
    past_labels = torch.cat([label.repeat(2) for label in labels[:2]])
    rows = torch.cat(steps[2]).detach()
    rows = rows / rows.norm(dim=1, keepdim=True)
    losses = []
    for i in range(8):
        label = labels[2][i % 4]
        legal = [k for k in range(16) if label == -1 or past_labels[k] != label]
        scores = torch.stack([rows[i] @ past[k] for k in legal]).sort(descending=True).values[:2]
        positive = torch.exp(rows[i] @ rows[(i + 4) % 8] / 0.3)
        losses.append(-torch.log(positive / (positive + torch.exp(scores / 0.3).sum())))
    torch.testing.assert_close(ours.detach(), torch.stack(losses).mean(), rtol=1e-12, atol=0)


LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, -1, -1, 5]


@pytest.mark.parametrize("source", ["in_batch()", "uniform(22)", "filtered(similarity=0.4)", "any"])
@pytest.mark.parametrize(("same", "count"), [(0.5, 8), (1.0, 3), (0.0, 5), (0.25, 9)])
@pytest.mark.filterwarnings("ignore:stratified")
def test_draws_are_distinct_legal_and_of_the_right_strata(source, same, count):
    batch = with_unknown_anchor(batch_of(14, labels=LABELS))
    if source == "any":
        # Rows of an anchor's id in every stratum.
        pool_ids = batch.anchor_ids[integers(0, 5, 60)]
        rows = {"pool_ids": pool_ids, "pool_labels": integers(-1, 6, 60, seed=2)}
        inner: NegativeSampler = Given(Negatives(pool=unit(60), **rows))
    else:
        inner = make_sampler(source)
    drawn = numbered(Stratified(count, same=same, source=inner)).sample(batch)
    offered = inner(batch)
    asked = round(same * count)
    assert drawn.columns.shape[1] <= count
    for i, (row, legal) in enumerate(
        zip(offers(drawn, batch), offers(offered, batch), strict=True)
    ):
        columns, legal = [column for column, _ in row], {column for column, _ in legal}
        assert len(set(columns)) == len(columns)
        assert set(columns) <= legal
        label = int(batch.labels[i])
        mates = {c for c in legal if label != -1 and int(offered.pool_labels[c]) == label}
        assert len(mates & set(columns)) == min(asked, len(mates))
        assert len(set(columns) - mates) == min(count - asked, len(legal - mates))


@pytest.mark.parametrize("source", ["in_batch()", "filtered(similarity=1.0)"])
@pytest.mark.filterwarnings("ignore:stratified")
def test_every_subset_of_each_stratum_is_equally_likely(source):
    # Own stratum: 2 of 4; others: 3 of 8. χ² for each of 6 anchors and 2 parts, 1 − 1e-6 together.
    rounds = 3000
    batch = repeated(batch_of(7, labels=[0, 0, 0, 1, 1, 2, -1]), rounds)
    drawn = numbered(Stratified(5, same=0.4, source=make_sampler(source))).sample(batch)
    draws = drawn.columns.view(rounds, 14, 5)
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
    full = negative_logsumexp(batch, make_sampler("in_batch()").sample(batch), 0.5).exp()
    rounds = 1500
    many = repeated(batch, rounds)

    def denominators(correction: bool, source: str) -> torch.Tensor:
        sampler = Stratified(5, same=0.6, correction=correction, source=make_sampler(source))
        drawn = numbered(sampler).sample(many)
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
    chosen = loss_fn.sampler.sample(replace(batch, draws=Draws(seed=5))).columns
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


def test_uniform_over_hard_draws_among_the_hardest():
    batch = batch_of(8)
    outer = numbered(make_sampler("uniform(num_negatives=3, source=hard(num_negatives=6))"))
    inner, drawn = outer.source.sample(batch).columns, outer.sample(batch).columns
    for i in range(16):
        assert len(set(drawn[i].tolist())) == 3
        assert set(drawn[i].tolist()) <= set(inner[i].tolist())


def test_a_table_by_data_set_index_is_as_good_as_labels(tmp_path):
    indexes = torch.tensor([3, 11, 0, 7, 9, 4, 1, 8])
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    table = torch.full((12,), 9)
    table[indexes] = labels
    np.save(tmp_path / "classes.npy", table.numpy().astype(np.uint8))
    by_label = batch_of(8, labels=labels, indexes=indexes)
    by_table = batch_of(8, indexes=indexes)
    expected = Stratified(4).sample(by_label).columns
    for by in (table, table.int(), str(tmp_path / "classes.npy")):
        sampler = Stratified(4, by=by)
        assert sampler.wants_indexes
        assert torch.equal(sampler.sample(by_table).columns, expected)
        assert not sampler.state_dict()
    assert not Stratified(4).wants_indexes
    sampler = Stratified(4, by=table)
    table.zero_()
    assert torch.equal(sampler.sample(by_table).columns, expected)


def test_rows_without_an_index_are_of_another_stratum():
    batch = batch_of(4, indexes=torch.arange(4))
    part = Negatives(
        pool=unit(8),
        pool_ids=torch.full((8,), -1),
        pool_indexes=torch.tensor([-1, -1, -1, 0, 0, 1, 2, 3]),
    )
    table = torch.tensor([1, 1, 1, -1])
    with pytest.warns(UserWarning, match=r"an anchor of unknown stratum \(-1\) has 0 of the 4"):
        drawn = Stratified(8, by=table, source=Given(part)).sample(batch)
    own = [
        set(row[:4][keep[:4]].tolist()) for row, keep in zip(drawn.columns, drawn.mask, strict=True)
    ]
    assert own == [{3, 4, 5, 6}, {3, 4, 5, 6}, {3, 4, 5, 6}, set()] * 2
    assert {0, 1, 2, 7} == set(drawn.columns[0, 4:].tolist())
    assert drawn.mask[:, 4:].all()


def test_a_stratum_that_is_too_small():
    z = naive.embeddings(2, 8)
    message = r"asks for 3 negatives of the anchor's own stratum, but no anchor .* more than 2;"
    with pytest.raises(ValueError, match=r"same=0\.5 of num_negatives=6 " + message):
        ContrastiveLoss("stratified(num_negatives=6)")(*z, labels=torch.arange(8) // 2)
    with pytest.raises(ValueError, match=r"asks for 1 negatives of other strata, but .* than 0;"):
        ContrastiveLoss("stratified(num_negatives=2)")(*z, labels=torch.zeros(8).long())
    loss_fn = ContrastiveLoss("stratified(num_negatives=6)")
    labels = torch.tensor([4, 4, 4, 4, 7, 7, 3, 3])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            loss_fn(*z, labels=labels)
    assert [str(warning.message) for warning in caught] == [
        f"stratified: an anchor of stratum {stratum} has 2 of the 3 negatives of the anchor's own "
        f"stratum that same=0.5 of num_negatives=6 asks for; all of them are used"
        for stratum in (3, 7)
    ]
    # A ragged batch, in which nobody has enough, is no error any more.
    with pytest.warns(UserWarning, match="stratum 4 has 2 of the 3"):
        loss_fn(*naive.embeddings(2, 4), labels=torch.tensor([4, 4, 7, 7]))


@pytest.mark.parametrize(("labels", "lacking"), [([0, 0, 0, 1], []), ([0, 0, 1, 2], [1, 2])])
def test_a_queue_is_waited_for_in_silence_and_then_held_to_its_word(labels, lacking):
    # Of 24 rows 6 are of a label that one of four samples has.
    asked = 16 if lacking else 12
    loss_fn = ContrastiveLoss(f"stratified(num_negatives={asked}, source=queue(size=24))")
    said = []
    for _ in range(6):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss_fn(*naive.embeddings(2, 4), labels=torch.tensor(labels)).backward()
        loss_fn.end_step()
        said.append([str(warning.message) for warning in caught if "stratif" in str(warning)])
    # Empty, then 8, 16 and 24 rows: the fifth step is the first that offers no more.
    assert [len(each) for each in said] == [0, 0, 0, 0, len(lacking), 0]
    for message, stratum in zip(said[4], lacking, strict=True):
        assert f"stratum {stratum} has 6 of the 8 negatives" in message


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("hard(num_negatives=0)", ValueError, "hard: num_negatives must be at least 1, got 0"),
        ("hard(num_negatives=2.5)", TypeError, "hard: num_negatives must be an integer"),
        ("hard(num_negatives=2, source=3)", TypeError, "hard: source must be a sampler, got 3"),
        ("filtered()", ValueError, "filtered: give by"),
        ("filtered(in_batch())", ValueError, "filtered: give by"),
        ("filtered(3, similarity=0.5)", TypeError, "filtered: source must be a sampler, got 3"),
        ("filtered(by='classes')", ValueError, 'filtered: by must be "labels" or None'),
        ("filtered(similarity=-1)", ValueError, r"filtered: similarity must be in \(-1, 1\], got"),
        ("filtered(similarity=1.5)", ValueError, r"filtered: similarity must be in \(-1, 1\]"),
        ("filtered(similarity=True)", TypeError, "filtered: similarity must be a number, got T"),
        ("stratified(num_negatives=0)", ValueError, "stratified: num_negatives must be at leas"),
        ("stratified(4, same=1.01)", ValueError, r"stratified: same must be in \[0, 1\], got 1.01"),
        ("stratified(4, same='half')", TypeError, "stratified: same must be a number"),
        ("stratified(4, by=3)", TypeError, 'stratified: by must be "labels", the path of a .npy'),
        ("stratified(4, by='classes')", ValueError, 'by must be "labels" or the path of a .npy'),
        ("stratified(4, by='no.npy')", ValueError, "stratified: by='no.npy' names no file"),
        ("stratified(4, correction=1)", TypeError, "stratified: correction must be True or False"),
        ("stratified(4, same=0, correction=True)", ValueError, "same=0 of num_negatives=4 is 0 of"),
        ("stratified(1, correction=True)", ValueError, "is 0 of the own stratum and 1 of others"),
    ],
)
def test_bad_arguments(expression, error, message):
    with pytest.raises(error, match=message):
        make_sampler(expression)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (np.array([0.5, 1.0]), TypeError, "must hold integers, got .*float64"),
        (np.array([True, False]), TypeError, "must hold integers, got .*bool"),
        (np.array([[0], [1]]), ValueError, r"must be one-dimensional and not empty, got \(2, 1\)"),
        (np.array([], dtype=int), ValueError, r"one-dimensional and not empty, got \(0,\)"),
        (np.array([0, -2]), ValueError, "strata from 0 upwards, or -1 where unknown, got -2"),
        (np.array(["a", {}], dtype=object), ValueError, "holds no array of numbers"),
        (b"no array", ValueError, "holds no array of numbers"),
        (b"", ValueError, "holds no array of numbers"),
    ],
)
def test_bad_tables(tmp_path, content, error, message):
    path = tmp_path / "table.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(error, match=message):
        Stratified(4, by=str(path))
    if isinstance(content, np.ndarray) and content.dtype != object:
        with pytest.raises(error, match=message):
            Stratified(4, by=torch.from_numpy(content))


def test_a_table_without_numpy(tmp_path, monkeypatch):
    np.save(tmp_path / "table.npy", np.arange(4))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError, match=r"is read with NumPy, which is not installed"):
        Stratified(4, by=str(tmp_path / "table.npy"))


def test_missing_metadata_is_named():
    z = naive.embeddings(2, 4)
    for expression in ("filtered(by='labels')", "stratified(num_negatives=2)"):
        with pytest.raises(ValueError, match=r'by="labels" needs the label of every sample, but'):
            ContrastiveLoss(expression)(*z)
    sampler = Stratified(2, by=torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=r"but the loss was called without indexes="):
        sampler.sample(batch_of(4))
    with pytest.raises(ValueError, match=r"every sample, but the loader is lazy"):
        sampler.sample(batch_of(4, unindexed="the loader is lazy"))
    with pytest.raises(ValueError, match=r"3 entries, but there is a sample with data set index 3"):
        sampler.sample(batch_of(4, indexes=torch.arange(4)))
    batch = batch_of(4, labels=[0, 0, 1, 1], indexes=torch.tensor([0, 0, 1, 2]))
    bare = Given(Negatives(pool=unit(6), pool_ids=torch.full((6,), -1)))
    with pytest.raises(ValueError, match="needs labels of the negatives too"):
        Filtered(bare, by="labels").sample(batch)
    with pytest.raises(ValueError, match="needs the data set index of the negatives too"):
        Stratified(2, by=torch.tensor([0, 0, 1]), source=bare).sample(batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: Hard(2, s),
        lambda s: Filtered(s, similarity=0.5),
        lambda s: Stratified(2, source=s),
    ],
)
def test_what_cannot_be_chosen_among_is_refused(make):
    batch = batch_of(4, labels=[0, 0, 1, 1])
    part = random_part(batch, "chosen")
    with pytest.raises(ValueError, match="already draws from the softmax"):
        make(Given(replace(part, estimator="posterior"))).sample(batch)
    mixed = replace(part, partners=part.columns, coefficients=torch.ones(8, 11, 2).double())
    with pytest.raises(ValueError, match="are mixtures, no rows of a pool to choose among"):
        make(Given(mixed)).sample(batch)


def _over_ranks(rank: int, world: int) -> list[list[int]]:
    z = [view[4 * rank : 4 * rank + 4] for view in naive.embeddings(2, 8)]
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 5, 5])[4 * rank : 4 * rank + 4]
    batch = ContrastiveBatch.from_views(tuple(z), labels=labels)
    batch = replace(batch, draws=Draws(rank=rank))
    kept = make_sampler("filtered(gather(), by='labels')")(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = make_sampler("stratified(2, same=1.0, source=gather())")(batch)
    return [kept.counts(batch.anchor_ids).tolist(), drawn.counts(batch.anchor_ids).tolist()]


def test_labels_are_those_of_every_rank():
    first, second = ranks.run(_over_ranks, 2)
    assert first == [[12, 12, 14, 14] * 2, [2, 2, 0, 0] * 2]
    assert second == [[12, 12, 12, 12] * 2, [2, 2, 2, 2] * 2]


@pytest.mark.parametrize("kind", ["filtered", "stratified"])
def test_a_recipe_hands_over_its_metadata(kind, tmp_path):
    # Batches of 8 hold each of 4 classes twice: of 14 negatives two are of the anchor's class.
    path = tmp_path / "classes.npy"
    np.save(path, np.arange(24) % 4)
    expression = {
        "filtered": "filtered(by='labels')",
        "stratified": f"stratified(num_negatives=8, same=0.25, by={str(path)!r})",
    }[kind]
    trainer = hosts.trainer(
        callbacks=[hosts.negative_control()(expression)], max_epochs=1, log_every_n_steps=1
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="stratified")
        trainer.fit(hosts.recipe(), hosts.loader())
    counted = trainer.callback_metrics[f"negplug/{hosts.site_name()}/num_negatives"]
    assert float(counted) == {"filtered": 12.0, "stratified": 8.0}[kind]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.filterwarnings("ignore:stratified")
def test_a_whole_pool_is_divided_as_a_loop_does(seed):
    # Anchors with no, one or many rows of their own id, anywhere among the strata: everything is
    # drawn, so that the parts themselves are seen, and then few, which have to be of them.
    ids = integers(-1, 6, 9, seed=seed)
    rows = 5 + 4 * seed
    pool_ids = torch.cat([integers(-1, 9, rows, seed=100 + seed), torch.tensor([2, 2, 2, 2])])
    rows += 4
    labels, pool_labels = integers(-1, 4, 9, seed=seed), integers(-1, 5, rows, seed=7 + seed)
    batch = ContrastiveBatch.from_ids(
        unit(9), ids, unit(9), ids, torch.arange(9), labels=labels, lasting=True
    )
    part = Negatives(pool=unit(rows), pool_ids=pool_ids, pool_labels=pool_labels)
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
