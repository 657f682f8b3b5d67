"""What is computed without looking at values equals what is computed with a look at them."""

from __future__ import annotations

import os

import pytest
import torch
from steady import DRAWING, SAMPLERS, batches

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug import ContrastiveLoss

BANKS = [
    "memory_bank(momentum=0.3, num_negatives=40)",
    "uniform(num_negatives=5, shared=True, correction=True, source=memory_bank())",
    "stratified(num_negatives=6, same=0.3, source=memory_bank(size=64))",
    "synthetic(num_noisy=4, sigma=0.1, source=memory_bank())",
    "hard(num_negatives=7, source=memory_bank(size=64))",
    "filtered(by='labels', source=memory_bank())",
]


CASES = [(expression, "infonce()") for expression in SAMPLERS + DRAWING + BANKS]
# Of all anchors, of some, and of none in the first step.
AVERAGED = ["in_batch()", "filtered(similarity=-0.2)", "queue(size=96)"]
CASES += [(expression, "sogclr()") for expression in AVERAGED]


def losses_and_memory(expression, objective):
    loss_fn = ContrastiveLoss(expression, objective, seed=3)
    losses, gradients = [], []
    for z, names in batches(6):
        loss = loss_fn(*z, **names)
        loss.backward()
        loss_fn.end_step()
        losses.append(loss.detach())
        gradients.append(z.grad)
    state = loss_fn.state_dict()
    values = [value["values"] for value in state.values() if "values" in value]
    return torch.stack(losses), torch.stack(gradients), values


@pytest.mark.parametrize(("expression", "objective"), CASES)
@pytest.mark.filterwarnings("ignore:stratified")
def test_losses_gradients_and_memories_are_the_same(expression, objective, monkeypatch):
    without = losses_and_memory(expression, objective)
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    looking = losses_and_memory(expression, objective)
    torch.testing.assert_close(without[:2], looking[:2], rtol=1e-4, atol=1e-6)
    for one, other in zip(without[2], looking[2], strict=True):
        if "slots" in one:
            # Written in full, however much room there is behind.
            slots = one.pop("slots"), other.pop("slots")
            used = [table[table >= 0] for table in slots]
            assert torch.equal(*used)
            assert torch.equal(*(table.ge(0).nonzero() for table in slots))
        if "rows" in one:
            count = one["count"]
            for state in (one, other):
                state["rows"] = state["rows"][:count]
                state["names"] = state["names"][:, :count]
        if "log_u" in one:
            # Likewise.
            width = min(state["log_u"].shape[1] for state in (one, other))
            assert all((state["log_u"][:, width:] == -torch.inf).all() for state in (one, other))
            one, other = ({"log_u": state["log_u"][:, :width]} for state in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
