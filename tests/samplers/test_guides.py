"""A guide that is a function: asked once for every sample, and then a table like any other."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from choosing import batch_of, unit
from device import DEVICE
from pools import only

from negplug.contract.dataset import DatasetAccess, ParentSamples
from negplug.kernels.rng_states import RngStates
from negplug.samplers.filtered import Filtered

INDEXES = torch.tensor([3, 17, 0, 9, 22, 5])
TABLE = unit(600, seed=11, width=5).cpu()
MARGIN = {"relative_margin": 0.3}


class Encoder:
    """Embeds samples by a table, and notes what it was asked."""

    def __init__(self, rows=TABLE, scale=3.0):
        self.rows, self.scale, self.asked = rows, scale, []

    def __call__(self, indexes):
        assert indexes.device.type == "cpu"
        assert not torch.is_grad_enabled()
        torch.rand(3), random.random(), np.random.rand()  # as dropout and augmentations would
        self.asked += indexes.tolist()
        return (self.scale * self.rows[indexes]).requires_grad_()


def batch(size=600, step=0, **known):
    dataset = DatasetAccess(size, **known)
    return batch_of(6, indexes=INDEXES, step=step).within(dataset=dataset)


@pytest.mark.parametrize("limits", [MARGIN, {"absolute_margin": 0.1}, {"similarity": 0.2}])
def test_it_decides_as_its_table(limits):
    encoder = Encoder()
    sampler = Filtered(**limits, guide=encoder)
    before = RngStates.now(torch.device("cpu"))
    for step in range(3):
        mask = only(sampler.sample(batch(step=step))).mask
        assert torch.equal(mask, only(Filtered(**limits, guide=TABLE).sample(batch())).mask)
        assert not mask.all()
    assert encoder.asked == list(range(600))
    after = RngStates.now(torch.device("cpu"))
    assert torch.equal(after.cpu, before.cpu)
    assert after.python == before.python
    assert after.numpy[2] == before.numpy[2]  # the place among numpy's numbers


def test_of_a_parent_every_sample_of_it_is_asked_for():
    places = (INDEXES * 7) % 600
    parent = ParentSamples(torch.arange(24) * 7 % 600, 600)
    encoder = Encoder()
    mask = only(
        Filtered(**MARGIN, guide=encoder, parent=True).sample(batch(24, parent=parent))
    ).mask
    assert len(encoder.asked) == 600
    direct = batch_of(6, indexes=places)
    assert torch.equal(mask, only(Filtered(**MARGIN, guide=TABLE).sample(direct)).mask)


def test_an_evaluation_before_any_step_knows_of_no_sample():
    encoder = Encoder()
    evaluated = batch().within(training=False)
    mask = only(Filtered(**MARGIN, guide=encoder).sample(evaluated)).mask
    assert torch.equal(
        mask, only(evaluated.all_keys().masked(mask | True)).serving(evaluated.anchors)
    )
    assert not encoder.asked


def test_ranks_and_checkpoints_tell_it_by_its_name():
    def teacher(indexes):
        return TABLE[indexes]

    sampler = Filtered(**MARGIN, guide=teacher)
    before = str(sampler)
    assert "guide=function test_ranks" in before
    sampler.sample(batch())
    assert str(sampler) == before


@pytest.mark.parametrize(
    ("guide", "size", "error", "message"),
    [
        (Encoder(), None, ValueError, r"number of samples is unknown; .* provide\(dataset=…\)"),
        (lambda indexes: TABLE[:4], 600, ValueError, r"got \(4, 5\) for 256"),
        (lambda indexes: [1.0], 600, ValueError, r"got list for 256"),
        (
            lambda indexes: TABLE[indexes].long(),
            600,
            TypeError,
            "must hold floating-point embeddings",
        ),
        (lambda indexes: TABLE[indexes] / 0, 600, ValueError, "must hold finite embeddings"),
        (Encoder(), 5, ValueError, "5 entries, but there is a sample with data set index 22"),
    ],
)
def test_what_guides_nothing(guide, size, error, message):
    sampler = Filtered(**MARGIN, guide=guide)
    with pytest.raises(error, match=message):
        sampler.sample(batch(size))


def test_the_device_of_the_batch():
    sampler = Filtered(**MARGIN, guide=Encoder())
    assert only(sampler.sample(batch())).mask.device.type == DEVICE.type
    assert sampler.guide.table.device.type == DEVICE.type
