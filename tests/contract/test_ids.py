"""Identities: anchors and keys of unknown samples."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from device import DEVICE
from pools import only

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.contract.ids import UNKNOWN, comparable_ids


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=3)"])
def test_anchors_without_identity_are_negatives_of_each_other_but_not_of_themselves(sampler):
    (z,) = naive.embeddings(1, 6)
    unit = torch.nn.functional.normalize(z, dim=1)
    batch = ContrastiveBatch.from_ids(unit, torch.tensor([0, 0, 1, 1, -1, -1], device=DEVICE))
    negatives = only(ContrastiveLoss(sampler).sampler.sample(batch))
    assert negatives.counts(batch.anchors).tolist() == (
        [4, 4, 4, 4, 5, 5] if sampler == "in_batch()" else [3] * 6
    )
    if sampler == "in_batch()":
        ours = ContrastiveLoss(temperature=0.3).contrast(batch)
        reference = naive.supervised(z, torch.tensor([0, 0, 1, 1, 8, 9]), 0.3, "sum")
        torch.testing.assert_close(ours, reference)


def test_unknown_anchor_differs_from_unknown_key():
    assert not (comparable_ids(torch.tensor([-1])) == torch.tensor([-1])).any()


def test_only_a_builders_own_ids_are_taken_as_they_are():
    z = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    unit = torch.nn.functional.normalize(z[0], dim=1)
    names = torch.tensor([0, UNKNOWN, 0, UNKNOWN], device=DEVICE)
    for batch in (
        ContrastiveBatch.from_views(tuple(z)),
        ContrastiveBatch.from_views(tuple(z), torch.tensor([7, 0, 7, 3])),
        ContrastiveBatch.from_pairs(*z),
        ContrastiveBatch.from_ids(unit, names, lasting=True),
    ):
        own = batch.anchors
        assert own.comparable_ids is own.ids
        assert (own.ids != UNKNOWN).all()
        # Others that take their place are looked at, whoever put them there.
        changed = replace(own, ids=names.repeat(2)[: len(own)])
        assert changed.comparable_ids.tolist() == [0, -2, 0, -2] * (len(own) // 4)
        assert own.detach().comparable_ids is own.ids
        assert own.select(torch.tensor([1, 0], device=DEVICE)).comparable_ids.tolist() == (
            own.ids[[1, 0]].tolist()
        )
    unknown = ContrastiveBatch.from_ids(unit, names, unit, names, lasting=True)
    assert unknown.anchors.comparable_ids.tolist() == [0, -2, 0, -2]
