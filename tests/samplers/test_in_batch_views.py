"""``in_batch(views=…)``: exact against loops, in every form that rows come in, and composed."""

from __future__ import annotations

import naive
import pytest
import ranks
import torch
from device import DEVICE
from objective_loops import LOOPS, assert_equal, unit_rows

from negplug import ContrastiveBatch, ContrastiveLoss, Rows, make_objective, make_sampler

HALVES = ["cross", "same"]


def serves(half, one, other):
    """Whether a row of one view serves an anchor of another."""
    return (one != other) == (half == "cross")


def negatives_of(rows, size, half):
    total = len(rows)
    return [
        [
            (rows[k], 1.0)
            for k in range(total)
            if k % size != i % size and serves(half, i // size, k // size)
        ]
        for i in range(total)
    ]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("objective", ["decoupled()", "relic(alpha=3.5)", "debiased()"])
def test_a_half_equals_the_loop(half, views, objective):
    size = 7
    z = naive.embeddings(views, size)
    batch = ContrastiveBatch.from_views(tuple(z))
    rows = unit_rows(z)
    total = views * size
    positives = [[k for k in range(total) if k != i and k % size == i % size] for i in range(total)]
    drawn = make_sampler(f"in_batch(views={half!r})")(batch)
    ours = make_objective(objective)(batch, drawn, 0.4)
    reference = LOOPS[objective](rows, positives, negatives_of(rows, size, half), 0.4)
    assert_equal(ours, reference, z)


@pytest.mark.parametrize("half", HALVES)
def test_rows_in_any_order_equal_the_loop(half):
    """Views that do not follow one another, and a sample that is in the batch twice."""
    (z,) = naive.embeddings(1, 12)
    rows = unit_rows([z])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    views = (torch.arange(12) // 4)[order]
    ids = torch.tensor([0, 1, 2, 0] * 3)[order]
    known = {"views": views.to(DEVICE), "num_views": 3, "name": "keys"}
    keys = Rows(rows, ids.to(DEVICE), **known)
    row = torch.arange(12, device=DEVICE)
    positives = [[k for k in range(12) if k != i and ids[k] == ids[i]] for i in range(12)]
    padded = [own + [-1] * (5 - len(own)) for own in positives]
    batch = ContrastiveBatch(keys, keys, torch.tensor(padded, device=DEVICE), row)
    negatives = [
        [(rows[k], 1.0) for k in range(12) if ids[k] != ids[i] and serves(half, views[i], views[k])]
        for i in range(12)
    ]
    drawn = make_sampler(f"in_batch(views={half!r})")(batch)
    for objective in ("decoupled()", "relic()"):
        ours = make_objective(objective)(batch, drawn, 0.4)
        assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), [z])


@pytest.mark.parametrize("half", HALVES)
def test_views_of_unequal_numbers_are_masked(half):
    (z,) = naive.embeddings(1, 7)
    views, ids = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    keys = Rows(unit_rows([z]), ids.to(DEVICE), views=views.to(DEVICE), name="keys")
    positives = torch.tensor([[4], [5], [6], [-1], [0], [1], [2]], device=DEVICE)
    batch = ContrastiveBatch(keys, keys, positives, torch.arange(7, device=DEVICE))
    (drawn,) = make_sampler(f"in_batch(views={half!r})")(batch)
    expected = [
        [bool(ids[k] != ids[i] and serves(half, views[i], views[k])) for k in range(7)]
        for i in range(7)
    ]
    assert drawn.serving(batch.anchors).tolist() == expected


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    "sampler",
    [
        "uniform(num_negatives=3, source={})",
        "hard(num_negatives=3, source={})",
        "gumbel_max(num_negatives=5, source={})",
        "stratified(num_negatives=3, same=0.0, source={})",
        "filtered(by='labels', source={})",
        "hierarchical({}, uniform(num_negatives=3, source={}))",
        "synthetic(num_mixed=3, num_hardest=4, source={})",
    ],
)
def test_samplers_choose_within_a_half(half, sampler):
    """Every row that they choose is of a view that serves, and never of the anchor's sample."""
    size, views = 6, 3
    z = naive.embeddings(views, size)
    labels = torch.arange(size, device=DEVICE) % 5
    batch = ContrastiveBatch.from_views(tuple(z), labels=labels)
    source = f"in_batch(views={half!r})"
    parts = make_sampler(sampler.replace("{}", source))(batch)
    of_row, row = torch.arange(18) // size, torch.arange(18) % size
    chosen = 0
    for part in parts:
        serving = part.serving(batch.anchors)
        every = torch.arange(18, device=DEVICE).expand(18, -1)
        first = getattr(part.choice, "first", getattr(part.choice, "columns", every))
        for names in (first, getattr(part.choice, "second", first)):
            for i in range(18):
                for k in names[i][serving[i]].tolist():
                    chosen += 1
                    assert serves(half, of_row[i], of_row[k])
                    assert row[i] != row[k]
    assert chosen


def test_the_halves_add_up():
    z = naive.embeddings(2, 9)
    batch = ContrastiveBatch.from_views(tuple(z))
    halves = [make_sampler(f"in_batch(views={half!r})")(batch) for half in HALVES]
    number = sum(part.counts(batch.anchors) for (part,) in halves)
    assert (number == 16).all()
    objective = make_objective("decoupled()")
    together = objective(batch, [part for (part,) in halves], 0.2)
    assert_equal(together, objective(batch, make_sampler("in_batch()")(batch), 0.2), z)


@pytest.mark.parametrize("half", HALVES)
def test_whole_pools_are_never_spelled_out(half, monkeypatch):
    def mask(_):
        raise AssertionError("a mask [N, K] was made")

    monkeypatch.setattr("negplug.contract.blocks.Blocks.mask", mask)
    for objective in ("infonce()", "decoupled()", "relic()"):
        loss = ContrastiveLoss(f"in_batch(views={half!r})", objective)(*naive.embeddings(2, 5))
        loss.backward()


def test_keys_of_other_views_alone():
    z = naive.embeddings(2, 5)
    batch = ContrastiveBatch.from_pairs(*z)
    (cross,) = make_sampler("in_batch(views='cross')")(batch)
    assert cross.one_whole_pool
    with pytest.raises(ValueError, match="compares an anchor with keys of other views alone"):
        make_sampler("in_batch(views='same')")(batch)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match=r"in_batch: views must be one of .*, got 'all'"):
        make_sampler("in_batch(views='all')")
    z = torch.nn.functional.normalize(naive.embeddings(1, 4)[0], dim=1)
    batch = ContrastiveBatch.from_ids(z, torch.tensor([0, 1, 0, 1], device=DEVICE))
    with pytest.raises(ValueError, match=r"in_batch\(views='cross'\): needs the view of every row"):
        make_sampler("in_batch(views='cross')")(batch)


def on_a_rank(rank, world):
    """The gradients over gathered keys, of this rank's rows; ranks have batches of two sizes."""
    z = [view.detach() for view in naive.embeddings(2, 6)]
    cuts = {1: [0, 6], 4: [0, 1, 3, 5, 6]}[world]
    own = [view[cuts[rank] : cuts[rank + 1]].clone().requires_grad_() for view in z]
    found = []
    for half in HALVES:
        batch = ContrastiveBatch.from_views(tuple(own)).gathered()
        loss = ContrastiveLoss(f"in_batch(views={half!r})", temperature=0.3).contrast(batch)
        found.append(torch.stack(torch.autograd.grad(loss, own)) / world)
    return found


def test_ranks_equal_one_process():
    together = zip(*ranks.run(on_a_rank, 4), strict=True)
    for expected, found in zip(on_a_rank(0, 1), together, strict=True):
        assert naive.relative(torch.cat(found, dim=1), expected) < 1e-9
