"""A temperature that is known a step late: the loss and its gradients are those of the present."""

from __future__ import annotations

import os

import pytest
import torch
from steady import batches

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by tests/kernels/test_triton.py", allow_module_level=True)

from negplug import ContrastiveLoss, LearnedTemperature


def trained(sampler):
    loss_fn = ContrastiveLoss(sampler, temperature=LearnedTemperature(0.5), seed=3)
    found = []
    # Far from one step to the next: from 0.5 to 0.05, and back.
    for (z, names), tau in zip(batches(4), (0.5, 0.05, 0.8, 0.02), strict=True):
        scale = loss_fn.temperature.logit_scale
        scale.data.fill_(-torch.tensor(tau).log())
        loss = loss_fn(*z, **names)
        found += [loss.detach(), *torch.autograd.grad(loss, [z, scale])]
    return found


@pytest.mark.parametrize(
    "sampler",
    ["in_batch()", "uniform(num_negatives=5)", "hierarchical(in_batch(), queue(size=96))"],
)
def test_what_the_host_does_not_know_is_made_up_for(sampler, monkeypatch):
    without = trained(sampler)
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    torch.testing.assert_close(without, trained(sampler), rtol=2e-4, atol=1e-6)
