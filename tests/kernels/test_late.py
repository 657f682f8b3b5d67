"""Conditions on values of a device: at once where that costs nothing, later elsewhere."""

import math

import pytest
import torch

from negplug import ContrastiveLoss
from negplug.kernels import choice, late

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def error():
    return ValueError("this is wrong")


def stand_in(monkeypatch, backend):
    """Have the CPU stand in for a GPU if that is Triton's backend."""
    monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    monkeypatch.setattr(choice, "_INTERPRETED", True)


def test_on_the_cpu_a_failure_is_raised_at_once_and_a_value_is_known():
    assert late.known(torch.tensor(3)) == 3
    assert late.known(torch.tensor(True, requires_grad=False)) is True
    for _ in range(2):
        late.check("something", torch.tensor(False), error)
        with pytest.raises(ValueError, match=r"^this is wrong$"):
            late.check("something", torch.tensor(True), error)


@pytest.mark.parametrize(
    ("value", "failed", "wrong"),
    [
        (torch.tensor(-2), lambda least: least < 0, True),
        (torch.tensor(0), lambda least: least < 0, False),
        (torch.tensor(float("nan")), math.isnan, True),
        (torch.tensor(0.0), math.isnan, False),
        (torch.tensor(3), bool, True),
    ],
)
def test_what_a_failure_is_may_be_asked_on_the_host(value, failed, wrong, monkeypatch):
    for backend in ("torch", "triton"):  # also where the CPU stands in for a GPU
        stand_in(monkeypatch, backend)
        if wrong:
            with pytest.raises(ValueError, match="this is wrong"):
                late.check("something", value, error, failed)
        else:
            late.check("something", value, error, failed)


def test_on_the_cpu_places_and_values_for_later_are_there():
    mask = torch.tensor([False, True, True, False])
    assert torch.equal(late.places(mask), mask.nonzero()[:, 0])
    assert late.places(mask[:0]).shape == (0,)
    assert late.later(torch.tensor([3, 1]))() == [3, 1]
    assert late.read(torch.tensor(3)) == 3


def test_what_follows_from_a_condition_is_done_once_it_is_met():
    done = []
    for met in (True, False, True):
        late.look("something", torch.tensor(met), lambda: done.append(True))
    assert len(done) == 2


def test_a_device_without_values_is_not_asked():
    value = torch.tensor(True, device="meta")
    assert late.known(value) is None
    assert late.read(value) is None
    assert late.places(value[None]) is None
    assert late.later(value[None])() is None
    late.check("something", value, error)


def test_a_cpu_that_stands_in_for_a_gpu_is_not_asked(monkeypatch):
    stand_in(monkeypatch, "triton")
    value = torch.tensor(True)
    assert late.known(value) is None
    assert late.places(value[None]) is None
    assert late.read(value) is True
    with pytest.raises(ValueError, match="this is wrong"):
        late.check("something", value, error)


@needs_cuda
def test_on_a_gpu_a_later_failure_is_raised_without_waiting():
    late.settle()
    kind = "of this test"
    with pytest.raises(ValueError, match=r"^this is wrong$"):
        late.check(kind, torch.tensor(True, device="cuda"), error)
    torch.cuda.set_sync_debug_mode("error")
    try:
        late.check(kind, torch.tensor(False).pin_memory().cuda(non_blocking=True), error)
        late.check(kind, torch.tensor(True).pin_memory().cuda(non_blocking=True), error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(ValueError, match=r"^this is wrong \(found 0 calls later"):
        late.settle()
    late.settle()


@needs_cuda
def test_a_gpu_gives_values_later():
    values = torch.arange(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        arrive = late.later(values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert arrive() == [0, 1, 2]


@needs_cuda
def test_embeddings_that_are_not_finite_are_found_at_the_latest_in_a_checkpoint():
    loss_fn = ContrastiveLoss()
    z = torch.randn(2, 8, 4, device="cuda")
    for _ in range(3):
        loss_fn(*z)
    z[1, 0, 0] = torch.nan
    loss_fn(*z)
    with pytest.raises(ValueError, match="z1 holds NaN"):
        loss_fn.state_dict()
