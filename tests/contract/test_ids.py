"""Identities: anchors and keys of unknown samples."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE
from pools import only

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.contract.ids import comparable_ids


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
