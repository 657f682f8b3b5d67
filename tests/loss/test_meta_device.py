"""Training steps on the meta device, which has shapes but no values.

A read of a value raises there, and so does a shape that depends on values. What passes waits for
no device and can be captured in a CUDA graph.
"""

from __future__ import annotations

import pytest
import torch
from steady import batches, pairs

from negplug import ContrastiveLoss


@pytest.mark.parametrize(("sampler", "objective"), pairs())
def test_steps_need_no_value(sampler, objective):
    loss_fn = ContrastiveLoss(sampler, objective).to("meta")
    for z, names in batches(4):
        views = z.detach().to("meta").requires_grad_()
        loss = loss_fn(*views, **{name: value.to("meta") for name, value in names.items()})
        loss.backward()
        loss_fn.end_step()
        assert loss.shape == ()
        assert views.grad.shape == views.shape


def test_the_meta_device_has_no_values():
    values = torch.ones(3, device="meta")
    reads = (lambda: float(values.sum()), values.nonzero, values.unique, lambda: values[values > 0])
    for read in reads:
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()
