"""Conditions on values of a device: at once where that costs nothing, later elsewhere."""

import pytest
import torch

from negplug import ContrastiveLoss
from negplug.kernels import late

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def error():
    return ValueError("this is wrong")


def test_on_the_cpu_a_failure_is_raised_at_once_and_a_value_is_known():
    assert late.known(torch.tensor(3)) == 3
    assert late.known(torch.tensor(True, requires_grad=False)) is True
    for _ in range(2):
        late.check("something", torch.tensor(False), error)
        with pytest.raises(ValueError, match=r"^this is wrong$"):
            late.check("something", torch.tensor(True), error)


def test_a_device_without_values_is_not_asked():
    assert late.known(torch.tensor(3, device="meta")) is None
    late.check("something", torch.tensor(True, device="meta"), error)


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
def test_embeddings_that_are_not_finite_are_found_at_the_latest_in_a_checkpoint():
    loss_fn = ContrastiveLoss()
    z = torch.randn(2, 8, 4, device="cuda")
    for _ in range(3):
        loss_fn(*z)
    z[1, 0, 0] = torch.nan
    loss_fn(*z)
    with pytest.raises(ValueError, match="z1 holds NaN"):
        loss_fn.state_dict()
