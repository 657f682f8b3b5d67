"""Objectives: exact against loops, careful with gaps."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE
from objective_loops import LOOPS, SAMPLERS, assert_equal, unit_rows
from pools import columns_of, only

from negplug import (
    Columns,
    ContrastiveBatch,
    ContrastiveLoss,
    Negatives,
    Rows,
    Whole,
    make_objective,
    make_sampler,
)


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("views", [2, 3])
def test_value_and_gradient_equal_the_loop(objective, sampler, views):
    size = 8
    z = naive.embeddings(views, size)
    batch = ContrastiveBatch.from_views(tuple(z))
    drawn = make_sampler(sampler)(batch)
    weight = 1.0
    if "correction" in sampler:
        weight = views * size / 8 if "shared" in sampler else views * (size - 1) / 8
    rows = unit_rows(z)
    total = views * size
    positives = [[k for k in range(total) if k % size == i % size and k != i] for i in range(total)]
    pool, columns = only(drawn).rows.embeddings, columns_of(only(drawn))
    if columns is not None:
        negatives = [[(rows[k], weight) for k in columns[i].tolist()] for i in range(total)]
    else:
        # The rows of a shared set are found again by value.
        keys = batch.keys.embeddings
        legal = [k for k in range(total) if (pool == keys[k]).all(1).any()]
        negatives = [[(rows[k], weight) for k in legal if (k - i) % size] for i in range(total)]
    ours = make_objective(objective)(batch, drawn, 0.4)
    assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), z)


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (12, 1), (1, -1), (12, -1)])
def test_weights_of_every_shape_equal_the_loop(objective, chosen, shape):
    z = naive.embeddings(2, 6)
    rows, ids = unit_rows(z), torch.arange(12) % 6
    batch = ContrastiveBatch.from_views(tuple(z))
    generator = torch.Generator().manual_seed(3)
    columns = torch.stack([(i + torch.tensor([1, 2, 4, 9], device=DEVICE)) % 12 for i in range(12)])
    width = 4 if chosen else 12
    size = [width if extent == -1 else extent for extent in shape]
    weight = torch.randn(size, dtype=torch.float64, generator=generator).to(DEVICE)
    drawn = [Negatives(batch.keys, Columns(columns) if chosen else Whole(), weight)]
    w = weight.exp().expand(12, width)
    if chosen:
        negatives = [[(rows[k], w[i, m]) for m, k in enumerate(columns[i])] for i in range(12)]
    else:
        negatives = [[(rows[k], w[i, k]) for k in range(12) if ids[k] != ids[i]] for i in range(12)]
    positives = [[(i + 6) % 12] for i in range(12)]
    ours = make_objective(objective)(batch, drawn, 0.4)
    assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), z)


@pytest.mark.parametrize("objective", LOOPS)
@pytest.mark.parametrize("weighted", [(False, False), (True, False), (False, True)])
def test_tiers_with_and_without_weights_equal_the_loop(objective, weighted):
    z = naive.embeddings(3, 6)
    rows = unit_rows(z)
    batch = ContrastiveBatch.from_views(tuple(z[:2]))
    # The batch, and a pool of unknown rows that are negatives of every anchor.
    weights = [
        torch.full((1, 1), w, dtype=torch.float64, device=DEVICE).log() for w in (1 / 3, 3.0)
    ]
    tiers = [batch.keys, Rows.unknown(rows[12:])]
    drawn = [
        Negatives(tier, log_weight=weight if given else None)
        for tier, weight, given in zip(tiers, weights, weighted, strict=True)
    ]
    w = [3.0 ** (n * 2 - 1) if given else 1.0 for n, given in enumerate(weighted)]
    negatives = [
        [(rows[k], w[0]) for k in range(12) if (k - i) % 6] + [(row, w[1]) for row in rows[12:]]
        for i in range(12)
    ]
    positives = [[(i + 6) % 12] for i in range(12)]
    ours = make_objective(objective)(batch, drawn, 0.4)
    assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), z)


@pytest.mark.parametrize("objective", LOOPS)
def test_ragged_positives_and_anchors_that_lack_one_or_the_other(objective):
    (z,) = naive.embeddings(1, 9)
    rows = unit_rows([z])
    ids = [0, 1, 0, 2, 1, 1, 0, 3, 4]
    positives = [[k for k in range(9) if k != i and ids[k] == ids[i]] for i in range(9)]
    padded = [own + [-1] * (2 - len(own)) for own in positives]
    keys = Rows(rows, torch.tensor(ids, device=DEVICE), name="keys")
    batch = ContrastiveBatch(keys, keys, torch.tensor(padded, device=DEVICE))
    columns = torch.tensor([[(i + 3) % 9, (i + 7) % 9] for i in range(9)], device=DEVICE)
    mask = torch.ones(9, 2, dtype=torch.bool, device=DEVICE)
    mask[1] = mask[7] = False  # one anchor has only positives, one has nothing
    mask[4, 0] = False
    drawn = [Negatives(keys, Columns(columns, mask))]
    negatives = [
        [(rows[k], 1.0) for k, used in zip(columns[i], mask[i], strict=True) if used]
        for i in range(9)
    ]
    ours = make_objective(objective)(batch, drawn, 0.4)
    assert ours[[1, 3, 7, 8]].tolist() == [0.0] * 4
    assert (ours[[0, 2, 4, 5, 6]] != 0).all()
    with torch.autograd.set_detect_anomaly(True):  # a NaN that goes no further is one too
        assert_equal(ours, LOOPS[objective](rows, positives, negatives, 0.4), [z])


@pytest.mark.parametrize("objective", LOOPS)
def test_without_any_negative_or_any_positive_the_loss_is_zero_and_keeps_its_graph(objective):
    z = naive.embeddings(2, 1)
    alone = ContrastiveLoss(objective=objective)(*z)
    (z0,) = naive.embeddings(1, 5)
    keys = Rows(unit_rows([z0]), torch.arange(5, device=DEVICE), name="keys")
    batch = ContrastiveBatch(keys, keys, torch.full((5, 1), -1, device=DEVICE))
    unpaired = make_objective(objective)(batch, [Negatives(keys)], 0.1).sum()
    assert unpaired.item() == 0
    with torch.autograd.set_detect_anomaly(True):
        assert naive.gradients(unpaired, [z0]).abs().sum() == 0
    assert alone.item() == 0
    assert naive.gradients(alone, z).abs().sum() == 0
