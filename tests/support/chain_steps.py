"""Batches of which chains are made, and steps of ``emc2()`` and ``isir()`` over them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from negplug import ContrastiveBatch

TAU = 0.2
SAMPLES = 14
BATCH = 4
WIDTH = 6
KINDS = {
    "emc2()": ("emc2", {}),
    "emc2(burn_in=2)": ("emc2", {"burn_in": 2}),
    "emc2(burn_in=0)": ("emc2", {"burn_in": 0}),
    "emc2(burn_in_stop=6)": ("emc2", {"burn_in_stop": 6}),
    "isir()": ("isir", {}),
}
OPTIONS = ["recompute", "cached", "drop"]


def with_option(expression, option):
    separator = "" if expression.endswith("()") else ", "
    return f"{expression[:-1]}{separator}out_of_batch={option!r})"


def batches(epochs):
    """Data set indexes of shuffled epochs; the last batch is ragged, and one has a sample twice."""
    for epoch in range(epochs):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
        for number, indexes in enumerate(order.split(BATCH)):
            if (epoch, number) in ((1, 1), (2, 0)):
                indexes = torch.cat([indexes[:-1], indexes[:1]])
            yield indexes


def table(step, views=3):
    """Embeddings ``[V, n, d]`` that drift from step to step."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(SAMPLES, WIDTH, dtype=torch.float64, generator=generator)
    generator = torch.Generator().manual_seed(2 + step)
    noise = torch.randn(views, SAMPLES, WIDTH, dtype=torch.float64, generator=generator)
    return base + 0.3 * noise


def batch_of(form, rows, indexes):
    """The batch of a form of loss, of leaves ``[V, n, d]``."""
    views = rows[:, indexes]
    if form == "pairs":
        return ContrastiveBatch.from_pairs(views[0], views[1], indexes)
    if form in ("classes", "crops"):
        # Supervised contrast; crops have ids of this batch alone, so one sample may have two.
        lasting = form == "classes"
        ids = indexes % 3 if lasting else torch.arange(len(indexes))
        anchors = normalize(views[:2].flatten(0, 1))
        return ContrastiveBatch.from_ids(
            anchors, ids.repeat(2), indexes=indexes.repeat(2), lasting=lasting
        )
    return ContrastiveBatch.from_views(tuple(views[: 3 if form == "three views" else 2]), indexes)


def outside_of(negatives, anchor):
    """What an anchor draws outside the batch: Σ_u w_u (1, row) of each image."""
    found = {}
    for part in negatives.others:
        drawn = part.log_weight[anchor] > -torch.inf
        for column, here in zip(part.columns[anchor], drawn, strict=True):
            if here:
                place = len(found.setdefault(int(part.pool_indexes[column]), []))
                weight = part.log_weight[anchor, place].exp()
                found[int(part.pool_indexes[column])].append((part.pool[column], weight))
    return {image: together(rows) for image, rows in found.items()}


def by_key(batch, negatives):
    """Weights ``[N, K]`` of the batch's keys, which the pool holds in another order."""
    weights = torch.zeros(len(batch.anchors), len(batch.keys), dtype=torch.float64)
    free = list(range(len(batch.keys)))
    for column in (negatives.log_weight > -torch.inf).any(0).nonzero()[:, 0].tolist():
        # Of rows that are alike (a sample that is in the batch twice), the first comes first.
        key = next(key for key in free if torch.equal(batch.keys[key], negatives.pool[column]))
        weights[:, key] = negatives.log_weight[:, column].exp()
        free.remove(key)
    return weights


def together(rows):
    one = torch.ones(1, dtype=torch.float64)
    return sum(weight * torch.cat([one, row.detach()]) for row, weight in rows)


def assert_same_chains(state, reference):
    found = {
        (int(index), int(view)): (int(state["state"][view, index]), state["score"][view, index])
        for view, index in (state["state"] >= 0).nonzero().tolist()
    }
    assert {who: image for who, (image, _) in found.items()} == reference.states
    for who, (_, score) in found.items():
        assert float(score) == pytest.approx(reference.scores[who], rel=1e-9, abs=1e-9)


def assert_same_cache(state, cache):
    known = state["known"].nonzero().tolist()
    assert {(image, view) for view, image in known} == {(i, v) for i in cache for v in cache[i]}
    for view, image in known:
        torch.testing.assert_close(state["embedding"][view, image], cache[image][view])
