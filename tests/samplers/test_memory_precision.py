"""Memories in half precision, through a change of precision, and on another device."""

from __future__ import annotations

import pytest
import torch
from memories import WIDTH, embed, memory, train
from torch import nn

from negplug import ContrastiveLoss


@pytest.mark.parametrize("expression", ["queue(size=48)", "memory_bank()"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_half_precision_is_finite_and_remembered_in_float32(expression, dtype, temperature):
    torch.manual_seed(0)
    model = nn.Linear(5, WIDTH)
    loss_fn = ContrastiveLoss(expression, temperature=temperature)
    for step in range(4):
        with torch.autocast("cpu", dtype):
            views = [model(x) for x in torch.randn(2, 8, 5)]
            assert views[0].dtype == dtype
            loss = loss_fn(*views, indexes=torch.arange(8) + 4 * step)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    rows = memory(loss_fn)["rows"]
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


@pytest.mark.parametrize("expression", ["queue(size=20)", "memory_bank(size=12)", "memory_bank()"])
def test_a_change_of_precision_between_steps(expression):
    loss_fn = ContrastiveLoss(expression)
    for step, dtype in enumerate([torch.float32, torch.float64, torch.float32]):
        assert train(loss_fn, embed(4, step, dtype=dtype), torch.arange(4)).isfinite()
    assert memory(loss_fn)["rows"].dtype == torch.float32  # that of the first


def test_a_memory_follows_the_module_to_another_device():
    for expression in ("queue(size=20)", "memory_bank()"):
        loss_fn = ContrastiveLoss(expression)
        train(loss_fn, embed(4, 0), torch.arange(4))
        loss_fn.end_step()
        loss_fn.to("meta")  # a device that every machine has
        tensors = [v for v in vars(loss_fn.sampler).values() if isinstance(v, torch.Tensor)]
        assert tensors
        assert all(tensor.device.type == "meta" for tensor in tensors)
