"""Every check of the conformance kit can fail."""

from __future__ import annotations

import pytest
import torch
from broken_samplers import BROKEN, Unseeded

from negplug import testing as kit
from negplug.testing import (
    CHECKS,
    Subject,
    check_sampler,
    draws,
    state,
)

# Ragged batches and labels drawn at random are short of negatives now and then.
pytestmark = pytest.mark.filterwarnings("ignore:.*all of them are used")


@pytest.mark.parametrize(
    ("sampler", "check", "message"),
    BROKEN,
    ids=[f"{sampler.__name__}-{check.__name__}" for sampler, check, _ in BROKEN],
)
def test_a_broken_sampler_is_found_out(sampler, check, message):
    with pytest.raises(AssertionError, match=message):
        check_sampler(sampler, checks=[check], timeout=5)


def test_each_check_has_a_sampler_that_fails_it():
    needs_an_accelerator = {state.memory_moves_between_devices}
    assert {check for _, check, _ in BROKEN} == set(CHECKS) - needs_an_accelerator


def test_all_violations_are_reported_at_once():
    with pytest.raises(AssertionError) as caught:
        check_sampler(Unseeded, ranks=1)
    report = str(caught.value)
    assert report.startswith("Unseeded violates what every sampler must keep to:\n- ")
    for check in (draws.the_same_seed_gives_the_same_run, state.only_a_finished_step_changes_state):
        assert f"{check.__name__}: " in report
    assert "no_column_is_repeated" not in report
    assert "ranks_equal_one_process" not in report


def test_what_a_sampler_refuses_is_raised_as_it_is():
    with pytest.raises(ValueError, match="num_negatives must be at least 1, got 0"):
        check_sampler("uniform(num_negatives=0)")


def test_a_check_alone_takes_a_subject():
    kit.CHECKS[0](Subject("in_batch()"))


def test_the_kit_computes_on_the_device_that_it_is_given():
    check_sampler("uniform(num_negatives=3)", device="cpu", ranks=1)
    for device in ("cpu", torch.device("meta")):  # every machine has these
        for view in Subject("in_batch()", device=device).views(0):
            assert view.device == torch.device(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:64"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"^torch has no device='{device}' here: .+$"):
        check_sampler("in_batch()", device=device)
