"""The loss in float32 and half precision: no overflow, no rounding of similarities."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE

from negplug import (
    ContrastiveLoss,
)

SAMPLERS = [
    "in_batch()",
    "uniform(num_negatives=4)",
    "uniform(num_negatives=4, correction=True)",
    "uniform(num_negatives=4, shared=True)",
    "uniform(num_negatives=4, shared=True, correction=True)",
]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02, 0.01, 1e-3])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_no_temperature_breaks_float32(sampler, temperature, spread):
    z = [v.detach().float().requires_grad_() for v in naive.embeddings(2, 16, spread=spread)]
    loss = ContrastiveLoss(sampler, temperature=temperature)(*z)
    assert loss.isfinite()
    assert naive.gradients(loss, z).isfinite().all()


# A GPU's programs round s = (similarity − 1)/τ, which of negatives that resemble nothing is about
# 1/τ: at τ = 0.02 that alone is 2.6e-6 (with exact products, under Triton's interpreter, where
# torch's operations have 1.5e-6). Products of split float32 on tensor cores, whose sums are cut off
# and not rounded, make it 5.2e-6 to 1.2e-5 on an H200.
CLOSEST = 3e-6 if DEVICE.type == "cpu" else 2e-5


@pytest.mark.parametrize("temperature", [0.1, 0.05, 0.02])
def test_float32_gradient_is_accurate_on_similar_views(temperature):
    # Relative error against float64 where "probability minus one-hot" loses all digits.
    single = [v.detach().float() for v in naive.embeddings(2, 512, 128, spread=0.05)]
    exact = [v.double().requires_grad_() for v in single]
    single = [v.requires_grad_() for v in single]
    loss_fn = ContrastiveLoss("in_batch()", temperature=temperature)
    wanted = naive.gradients(loss_fn(*exact), exact)
    got = naive.gradients(loss_fn(*single), single).double()
    assert naive.relative(got, wanted) < CLOSEST


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_neither_overflows_nor_rounds_the_similarities(sampler, dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 16)
    x = torch.randn(2, 12, 16)
    loss_fn = ContrastiveLoss(sampler, temperature=0.01)
    with torch.autocast("cpu", dtype=dtype):
        z = layer(x)
        assert z.dtype == dtype
        loss = loss_fn(z[0], z[1])
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert layer.weight.grad.isfinite().all()
    outside = ContrastiveLoss(sampler, temperature=0.01)(z[0].float(), z[1].float())
    assert torch.equal(loss, outside)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_a_backward_pass_inside_autocast_is_the_same(sampler, temperature):
    z = [v.detach().float().requires_grad_() for v in naive.embeddings(2, 12)]
    outside = naive.gradients(ContrastiveLoss(sampler, temperature=temperature)(*z), z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = naive.gradients(ContrastiveLoss(sampler, temperature=temperature)(*z), z)
    assert torch.equal(inside, outside)
