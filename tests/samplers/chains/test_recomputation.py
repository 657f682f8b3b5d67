"""Samples outside the batch embedded anew by chains: generators, autocast."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from chain_steps import WIDTH, batches, table

from negplug import ContrastiveLoss


@pytest.mark.parametrize("expression", ["emc2(out_of_batch='recompute')", "isir('recompute')"])
def test_recomputation_leaves_the_global_generators_alone(expression):
    """Whatever the augmentations draw from; they are others in each step, and repeatable."""

    def run():
        drawn = []

        def encode(indexes):
            drawn.append((float(torch.rand(())), numpy.random.rand(), random.random()))
            noise = torch.randn(len(indexes), WIDTH, dtype=torch.float64)
            return noise + numpy.random.rand(), noise + random.random()

        loss_fn = ContrastiveLoss(expression, seed=0)
        for step, indexes in enumerate(batches(2)):
            views = table(step).requires_grad_()[:2, indexes]
            loss_fn(*views, indexes=indexes, encode=encode).backward()
        return drawn

    def states():
        return torch.get_rng_state().tolist(), str(numpy.random.get_state()), random.getstate()

    before = states()
    first = run()
    assert states() == before
    torch.rand(3), numpy.random.rand(3), random.random()
    assert run() == first
    for source in zip(*first, strict=True):
        assert len(set(source)) == len(first) > 2


def test_samples_are_embedded_anew_under_the_autocast_of_the_loop():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 12, 8, generator=generator)
    encoder = torch.nn.Linear(8, 5)
    kinds = []

    def encode(wanted):
        views = tuple(encoder(view[wanted]) for view in images)
        kinds.append(views[0].dtype)
        return views

    loss_fn = ContrastiveLoss("emc2(out_of_batch='recompute')", seed=0)
    for lower in (False, True):
        for _ in range(3):
            for indexes in torch.randperm(12, generator=generator).split(4):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
                    loss_fn(*encode(indexes), indexes=indexes, encode=encode).backward()
        assert len(kinds) > 10  # the batches' own, the first step's trial, and states outside
        assert set(kinds) == {torch.bfloat16 if lower else torch.float32}
        kinds.clear()
