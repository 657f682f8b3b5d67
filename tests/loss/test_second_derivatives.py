"""A gradient that is to be differentiated again is refused: its kernels leave that part out."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE
from torch import nn

from negplug import ContrastiveLoss


def penalised(loss_fn, views, layer):
    """As a gradient penalty on the inputs has it: part of the way has second derivatives."""
    x = views[0].float().detach().requires_grad_()
    loss = loss_fn(layer(x), layer(views[1].float().detach()))
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + gradient.square().sum()


def hessian_free(loss_fn, views, layer):
    loss_fn(*views).backward(create_graph=True)


def of_pairs(loss_fn, views, layer):
    torch.autograd.grad(loss_fn.pairs(*views), views[1], create_graph=True)


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=2)", "queue(size=32)"])
@pytest.mark.parametrize("differentiate", [penalised, hessian_free, of_pairs])
def test_a_graph_of_the_gradient_is_refused(sampler, differentiate):
    loss_fn, layer = ContrastiveLoss(sampler), nn.Linear(6, 6).to(DEVICE)
    views = [v.detach().requires_grad_() for v in naive.embeddings(2, 8, 6, seed=0)]
    with pytest.raises(RuntimeError, match=r"create_graph=True.*leave create_graph out"):
        differentiate(loss_fn, views, layer)
    loss_fn(*views).backward()  # and training goes on
    assert views[0].grad.isfinite().all()
