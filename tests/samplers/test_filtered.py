"""``filtered``: what a loop keeps of a source, by label and by similarity."""

from __future__ import annotations

import warnings

import naive
import pytest
import torch
from choosing import FORMS, Given, batch_of, offers, random_part, similarity, with_unknown_anchor
from pools import only
from settling import settled

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
)
from negplug.samplers.filtered import Filtered


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("by", "threshold"), [("labels", None), (None, 0.1), ("labels", 0.1)])
def test_filtered_keeps_what_a_loop_keeps(form, by, threshold):
    batch = with_unknown_anchor(batch_of(6, labels=[0, 1, 2, -1, 1, 0]))
    part = random_part(batch, form)
    kept = only(Filtered(Given(part), by=by, similarity=threshold).sample(batch))
    removed = 0
    for i, offered in enumerate(offers(part, batch)):
        expected = []
        for column, weight in offered:
            label = int(batch.anchors.labels[i])
            mate = by is not None and label != -1 and int(part.rows.labels[column]) == label
            near = threshold is not None and similarity(batch, part, i, column) > threshold
            if not (mate or near):
                expected.append((column, weight))
        removed += len(offered) - len(expected)
        assert offers(kept, batch)[i] == expected
    assert removed > 10
    assert kept.counts(batch.anchors).tolist() == [len(row) for row in offers(kept, batch)]


def test_what_equals_the_threshold_is_kept():
    axes = torch.eye(4, dtype=torch.float64)
    batch = ContrastiveBatch.from_pairs(axes, axes)
    assert only(Filtered(similarity=1e-9).sample(batch)).mask.sum() == 12
    doubled = ContrastiveBatch.from_pairs(axes[[0, 0, 1]], axes[[0, 0, 1]])
    assert only(Filtered(similarity=1.0).sample(doubled)).mask.sum() == 6
    assert only(Filtered(similarity=0.999).sample(doubled)).mask.sum() == 4


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
    both = Filtered(Given(*parts), by="labels").sample(batch)
    for ours, part in zip(both, parts, strict=True):
        alone = only(Filtered(Given(part), by="labels").sample(batch))
        assert offers(ours, batch) == offers(alone, batch)


def test_unknown_labels_filter_nothing():
    z = naive.embeddings(2, 8)
    unknown = torch.full((8,), -1)
    with pytest.warns(UserWarning, match=r"every label of the first batch is -1"):
        ours = ContrastiveLoss("filtered(by='labels')", temperature=0.2)(*z, labels=unknown)
    torch.testing.assert_close(ours, ContrastiveLoss("in_batch()", temperature=0.2)(*z))


def test_a_first_batch_that_has_one_label_has_something_to_go_by():
    z = naive.embeddings(2, 8)
    labels = torch.full((8,), -1).index_fill(0, torch.tensor(1), 3)
    ContrastiveLoss("filtered(by='labels')")(*z, labels=labels)  # warnings are errors


def test_a_filter_that_leaves_nothing_says_so():
    z = naive.embeddings(2, 4)
    with pytest.warns(UserWarning, match="leaves no anchor of a batch a negative"):
        loss = settled(ContrastiveLoss("filtered(by='labels')"), *z, labels=torch.zeros(4).long())
    loss.backward()
    assert loss.item() == 0.0
    with warnings.catch_warnings():
        # One that has nothing to filter yet is fine.
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*the loss trains its keys")
        settled(ContrastiveLoss("filtered(queue(size=8), similarity=0.5)"), *z)


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
