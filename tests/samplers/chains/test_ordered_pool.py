"""A pool in the order of its samples: rows, logits of samples, exclusions, in loops."""

import math

import pytest
import torch
from pools import only
from torch.nn.functional import normalize

from negplug import ContrastiveBatch, make_sampler
from negplug.contract import rows as contract_rows
from negplug.contract.rows import ANCHORS, Rows
from negplug.kernels.random.numbers import RandomNumbers
from negplug.samplers.chains import ordered_pool
from negplug.samplers.chains.grouping import samples_of
from negplug.samplers.chains.ordered_pool import OrderedPool
from negplug.samplers.chains.step import ChainStep
from negplug.samplers.chains.weighting import drawn_rows

TAU = 0.3
NEW = torch.tensor([-1] * 6), torch.full((6,), -torch.inf, dtype=torch.float64)

# Data set indexes and ids of the rows: alike; a sample three times; ids that changed between two
# visits, or were not known at one.
POOLS = {
    "two views": ([4, 9, 2, 4, 9, 2], [4, 9, 2, 4, 9, 2]),
    "uneven": ([4, 4, 4, 9, 2, 9, 0], [4, 4, 4, 9, 2, 9, 0]),
    "other ids": ([4, 4, 9, 2, 2, 0], [7, 5, 7, -1, 6, 8]),
    "one": ([3], [3]),
}


def rows(number, seed):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(number, 8, dtype=torch.float64, generator=generator))


def question(kind):
    indexes, ids = (torch.tensor(names) for names in POOLS[kind])
    pool = Rows(rows(len(ids), 1).requires_grad_(), ids, indexes)
    anchors, own = rows(6, 2).requires_grad_(), torch.tensor([4, 9, 2, 0, 1, 3])
    names = torch.tensor([7, 5, 6, 8, -1, 3]) if kind == "other ids" else own
    of_anchors = Rows(anchors, names, own, name=ANCHORS)
    batch = ContrastiveBatch(of_anchors, Rows(anchors, names), torch.full((6, 1), -1))
    return batch.within(temperature=TAU), pool


@pytest.mark.parametrize("looks", [True, False])  # lists of exclusions, and masks
@pytest.mark.parametrize("kind", POOLS)
def test_samples_and_their_rows_equal_loops(kind, looks, monkeypatch):
    for module in (ordered_pool, contract_rows):
        monkeypatch.setattr(module, "free_to_read", lambda _: looks)
    batch, pool = question(kind)
    shuffled = samples_of(pool).shuffled(RandomNumbers(3, torch.device("cpu")))
    ordered = OrderedPool.of(pool, shuffled)
    assert sorted(ordered.pool.embeddings.tolist()) == sorted(pool.embeddings.tolist())
    with torch.no_grad():
        chains = {"state": NEW[0], "score": NEW[1]}
        step = ChainStep.of(batch, batch.anchors.indexes, ordered, chains)
        scores = step.scores.clone()
        shares = (scores > -torch.inf) / (scores > -torch.inf).sum(1, keepdim=True).clamp(min=1)
        drawn = drawn_rows(step, shares.double().T.contiguous().T)
    weights = drawn.log_weight.exp()
    for i, anchor in enumerate(batch.anchors.embeddings):
        allowed = []
        for c, image in enumerate(ordered.samples.indexes.tolist()):
            mine = [k for k, index in enumerate(pool.indexes.tolist()) if index == image]
            name = int(batch.anchors.ids[i])
            ids = [int(pool.ids[k]) for k in mine]
            if image == int(batch.anchors.indexes[i]) or (name != -1 and name in ids):
                assert scores[i, c] == -torch.inf
                continue
            each = [math.exp((anchor @ pool.embeddings[k]).item() / TAU) for k in mine]
            assert math.exp(scores[i, c]) == pytest.approx(sum(each) / len(mine))
            allowed.append({k: one / sum(each) for k, one in zip(mine, each, strict=True)})
        wanted = {k: w / len(allowed) for image in allowed for k, w in image.items()}
        for column, row in enumerate(drawn.rows.embeddings):
            key = int((pool.embeddings == row).all(1).nonzero())
            assert float(weights[i, column]) == pytest.approx(wanted.get(key, 0))


def test_a_queues_frequent_sample_needs_no_more_rows_than_the_queue_has():
    sampler = make_sampler("isir(source=queue(size=64), out_of_batch='drop', size=50)")
    for step in range(12):
        indexes = torch.cat([torch.zeros(4), torch.arange(4) + 4 * step + 1]).long()
        queries, keys = rows(8, step).requires_grad_(), rows(8, 99 + step)
        negatives = only(sampler(ContrastiveBatch.from_pairs(queries, keys, indexes)))
        assert len(negatives.rows.embeddings) <= 64
        sampler.flush()
    assert len(negatives.rows.embeddings) == 64
