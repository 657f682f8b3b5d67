"""Rows of an anchor's own past, which never serve as its negatives."""

from __future__ import annotations

import torch
from device import DEVICE
from memories import embed, train
from pools import only
from torch import nn

from negplug import ContrastiveBatch, ContrastiveLoss


def test_an_anchors_own_past_never_serves():
    loss_fn = ContrastiveLoss("queue(size=64)")  # five samples, each many times in the queue
    for step in range(8):
        train(loss_fn, embed(5, step), torch.arange(5))
    loss_fn.end_step()
    indexes = torch.tensor([2, 0, 8])
    batch = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(3, 20)), indexes)
    offered = only(loss_fn.sampler(batch))
    assert len(offered.rows.embeddings) == 64
    of_own = [int((offered.rows.indexes == index).sum()) for index in indexes]
    assert of_own[0] > 10
    assert of_own[2] == 0
    assert offered.counts(batch.anchors).tolist() == [64 - own for own in of_own] * 2


def test_an_anchor_whose_past_fills_the_memory_pays_nothing():
    loss_fn = ContrastiveLoss("queue(size=64)")
    for step in range(3):
        views = embed(1, step)
        assert train(loss_fn, views, torch.tensor([5])) == 0
        assert all(v.grad.abs().sum() == 0 for v in views)


def test_the_past_of_positives_never_serves():
    # Supervised contrast: the classes are the ids, the same in every step.
    loss_fn = ContrastiveLoss("queue(size=64)")
    classes = torch.tensor([0, 1, 0, 2, 1], device=DEVICE)
    for step in range(2):
        (z,) = embed(5, step, views=1)
        batch = ContrastiveBatch.from_ids(nn.functional.normalize(z, dim=1), classes, lasting=True)
        counts = only(loss_fn.sampler(batch.detach())).counts(batch.anchors)
        assert counts.tolist() == ([0] * 5 if step == 0 else [3, 3, 3, 4, 3])
        loss_fn.contrast(batch).backward()
        loss_fn.end_step()


def test_names_of_one_batch_mean_nothing_in_another():
    loss_fn = ContrastiveLoss("queue(size=64)")
    total = 0
    for step, indexes in enumerate([torch.arange(4), None, torch.arange(4), None, None]):
        views = tuple(v.detach() for v in embed(4, step))
        batch = ContrastiveBatch.from_views(views, indexes)
        counts = only(loss_fn.sampler(batch)).counts(batch.anchors)
        # Of an indexed batch before, each sample has two rows.
        own = 2 if step == 2 else 0
        assert counts.tolist() == [total - own] * 8
        train(loss_fn, embed(4, step), indexes)
        loss_fn.end_step()
        total += 8
