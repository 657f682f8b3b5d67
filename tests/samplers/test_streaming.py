"""What may be built on keys that go around a ring, and what is refused before it trains."""

from __future__ import annotations

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

RING = "gather(ring=True)"
CHOOSING = [
    f"hard(num_negatives=2, source={RING})",
    f"uniform(num_negatives=2, source={RING})",
    f"filtered(by='labels', source={RING})",
    f"hierarchical({RING}, queue(size=8))",
    f"schedule(in_batch(), hard(num_negatives=2, source={RING}), from_steps=(0, 5))",
    f"gumbel_max(source={RING})",
    f"synthetic(num_noisy=1, sigma=0.1, source={RING})",
    f"false_negatives(source={RING})",
]


@pytest.mark.parametrize("sampler", CHOOSING)
def test_who_looks_at_single_rows_is_refused(sampler):
    with pytest.raises(ValueError, match=r"looks at single rows, and those of gather\(ring=True\)"):
        ContrastiveLoss(sampler)


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
