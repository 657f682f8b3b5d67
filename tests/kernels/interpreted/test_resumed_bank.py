"""A memory bank that does not wait for a device: saved, it goes on as if it were not."""

from __future__ import annotations

import io
import os

import pytest
import torch
from steady import batches

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug import ContrastiveLoss

BANKS = [
    "memory_bank()",
    "memory_bank(num_negatives=9, size=64)",
    "hard(num_negatives=7, source=memory_bank(momentum=0.2))",
]


def step(loss_fn, batch):
    z, names = batch
    views = z.detach().requires_grad_()
    seen = []
    loss_fn.witness = lambda _, pools: seen.extend(len(part.rows) for part in pools)
    loss = loss_fn(*views, **names)
    loss.backward()
    loss_fn.end_step()
    return loss.detach(), views.grad, seen


@pytest.mark.parametrize("expression", BANKS)
@pytest.mark.filterwarnings("ignore:memory_bank")
def test_saving_and_resuming_leave_no_trace(expression):
    straight, saved, resumed = (ContrastiveLoss(expression, seed=3) for _ in range(3))
    steps = list(batches(8))
    for number, batch in enumerate(steps):
        wanted = step(straight, batch)
        assert wanted[2]
        if number < 3:
            found = [step(saved, batch)]
            file = io.BytesIO()
            torch.save(saved.state_dict(), file)
        else:
            if number == 3:
                file.seek(0)
                resumed.load_state_dict(torch.load(file, weights_only=True))
            found = [step(saved, batch), step(resumed, batch)]
        for loss, gradient, pool in found:
            assert pool == wanted[2], f"step {number}"
            assert torch.equal(loss, wanted[0])
            assert torch.equal(gradient, wanted[1])


def test_a_state_of_before_is_read_and_a_damaged_one_is_not():
    loss_fn = ContrastiveLoss("memory_bank()")
    step(loss_fn, next(iter(batches(1))))
    state = loss_fn.state_dict()
    bank = state["sampler._extra_state"]
    reach = bank.pop("reach")
    ContrastiveLoss("memory_bank()").load_state_dict(state)
    for wrong in (-1, 10**6, 2.0, "many"):
        bank["reach"] = wrong
        with pytest.raises(ValueError, match=r"the saved reach .* is not within its"):
            ContrastiveLoss("memory_bank()").load_state_dict(state)
    bank["reach"] = reach
    ContrastiveLoss("memory_bank()").load_state_dict(state)
