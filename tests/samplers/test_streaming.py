"""What may be built on keys that go around a ring, and what is refused before it trains."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Negatives,
    make_objective,
    make_sampler,
)
from negplug.contract.gathering import Gathering
from negplug.contract.negatives import EveryRank, enumerated
from negplug.contract.objective import Objective
from negplug.contract.shapes import check_negatives
from negplug.plugins.manager import plugins

RING = "gather(ring=True)"
CHOOSING = {
    "uniform": "uniform(num_negatives=2, source={})",
    "hard": "hard(num_negatives=2, source={})",
    "filtered": "filtered(by='labels', source={})",
    "false_negatives": "false_negatives(source={})",
    "stratified": "stratified(num_negatives=2, source={})",
    "synthetic": "synthetic(num_noisy=1, sigma=0.1, source={})",
    "gumbel_max": "gumbel_max(source={})",
    "emc2": "emc2(source={})",
    "isir": "isir(source={})",
    "hierarchical": "hierarchical({}, queue(size=8))",
}
"""Sampler → an expression of it, with a place for the one that it reads."""
STREAMING = [RING, f"schedule(in_batch(), {RING}, from_steps=(0, 5))"]
PLACES = [
    "{}",
    "schedule({}, in_batch(), from_steps=(0, 5))",
    "schedule(in_batch(), {}, from_steps=(0, 5))",
    f"schedule({{}}, {RING}, from_steps=(0, 5))",
    f"schedule({RING}, {{}}, from_steps=(0, 5))",
    f"schedule({RING}, schedule(in_batch(), {{}}, from_steps=(0, 5)), from_epochs=(0, 5))",
    "hierarchical(queue(size=8), {})",
    "uniform(num_negatives=1, source={})",
]


def test_every_built_in_sampler_that_reads_another_is_tried():
    reading = {
        provided.spec.name
        for provided in plugins().provided("sampler")
        if provided.plugin.distribution == "negplug"
        for parameter in inspect.signature(provided.spec.factory).parameters.values()
        if parameter.name == "source" or parameter.kind is parameter.VAR_POSITIONAL
    }
    assert reading == {*CHOOSING, "schedule"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("streaming", STREAMING, ids=["ring", "schedule"])
@pytest.mark.parametrize("name", CHOOSING)
def test_who_looks_at_single_rows_is_refused_wherever_it_stands(name, streaming, place):
    choosing = CHOOSING[name].format(streaming)
    with pytest.raises(ValueError, match="looks at single rows") as refused:
        ContrastiveLoss(place.format(choosing))
    assert str(refused.value).startswith(f"{name}(")
    assert "those of gather(ring=True) go around a ring" in str(refused.value)


@pytest.mark.parametrize("objective", ["relic(alpha=1.0)", "debiased()", "sigmoid()", "sogclr()"])
def test_objectives_that_need_more_than_a_sum_are_refused(objective):
    with pytest.raises(ValueError, match="needs more of its negatives than their log-sum-exp"):
        ContrastiveLoss(RING, objective)
    batch = ContrastiveBatch.from_views(tuple(torch.randn(2, 4, 3)))
    with pytest.raises(ValueError, match="needs more of its negatives than their log-sum-exp"):
        ContrastiveLoss(RING).contrast(batch, objective=make_objective(objective))


def test_a_third_partys_objective_has_to_say_that_it_takes_them():
    class Mine(Objective):
        def forward(self, batch, negatives, temperature):
            return torch.zeros(len(batch.anchors))

    with pytest.raises(ValueError, match="Mine needs more of its negatives"):
        ContrastiveLoss(RING, Mine())
    Mine.takes_streams = True
    ContrastiveLoss(RING, Mine())


@pytest.mark.parametrize(
    "sampler", [RING, f"schedule(in_batch(), {RING}, from_epochs=(0, 5))", "gather(ring=False)"]
)
def test_in_one_process_it_is_the_batch(sampler):
    views = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    loss_fn = ContrastiveLoss(sampler)
    loss_fn.set_epoch(5)
    assert torch.equal(loss_fn(*views), ContrastiveLoss("in_batch()")(*views))


@pytest.mark.parametrize("wrong", ["1", "'yes'", "None", "0.5"])
def test_ring_is_a_truth_value(wrong):
    with pytest.raises(TypeError, match="gather: ring must be True or False, got"):
        ContrastiveLoss(f"gather(ring={wrong})")


def test_a_host_that_gathers_by_itself_is_told_once(recwarn):
    batch = ContrastiveBatch.from_views(tuple(torch.randn(2, 4, 3)))
    batch = replace(batch, gathering=Gathering(0, 8, torch.zeros(())))
    sampler = make_sampler(RING)
    for _ in range(2):
        (part,) = sampler(batch.within())
        assert part.one_whole_pool
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == 1
    assert "has gathered all keys by itself, so nothing goes around the ring" in told[0]


def test_such_keys_cannot_be_listed():
    batch = ContrastiveBatch.from_views(tuple(torch.randn(2, 4, 3)))
    part = Negatives(batch.keys, EveryRank())
    check_negatives([part], batch.anchors)
    mask = torch.ones(8, 8, dtype=torch.bool)
    for listing in (
        lambda: enumerated([part], batch.anchors),
        lambda: part.counts(batch.anchors),
        lambda: part.serving(batch.anchors),
        lambda: part.masked(mask),
        lambda: check_negatives([replace(part, log_weight=torch.zeros(8, 8))], batch.anchors),
    ):
        with pytest.raises(ValueError, match="go around a ring cannot be listed"):
            listing()
