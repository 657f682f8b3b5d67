"""Tensors and temperatures that nothing can be computed from: one sentence each."""

from __future__ import annotations

from decimal import Decimal

import naive
import pytest
import torch

from negplug import ContrastiveLoss


def sparse(z):
    return z.to_sparse()


def compressed(z):
    return z.to_sparse_csr()


def nested(z):
    return torch.nested.nested_tensor(list(z), layout=torch.jagged)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [sparse, compressed, nested], ids=lambda kind: kind.__name__)
def test_embeddings_that_are_not_dense_are_refused(kind):
    z0, z1 = (z.detach() for z in naive.embeddings(2, 4))
    with pytest.raises(TypeError, match=r"^z1 must be a dense tensor, got a \w+ one; call to_dens"):
        ContrastiveLoss()(z0, kind(z1))


@pytest.mark.parametrize(
    "transform",
    [
        lambda loss, z0, z1: torch.func.grad(lambda z: loss(z, z1))(z0),
        lambda loss, z0, z1: torch.func.vjp(lambda z: loss(z1, z), z0),
        lambda loss, z0, z1: torch.vmap(loss)(z0[None], z1[None]),
    ],
)
def test_transforms_of_functions_are_refused(transform):
    z0, z1 = (z.detach() for z in naive.embeddings(2, 4))
    with pytest.raises(TypeError, match=r"z\d is inside of a transform of torch\.func .* backward"):
        transform(ContrastiveLoss(), z0, z1)


def test_labels_that_are_not_dense_are_refused():
    z0, z1 = naive.embeddings(2, 4)
    with pytest.raises(TypeError, match=r"^labels must be .*sparse_coo"):
        ContrastiveLoss()(z0, z1, labels=torch.arange(4).to_sparse())


def test_indexes_without_values_are_refused():
    z0, z1 = naive.embeddings(2, 4)
    with pytest.raises(ValueError, match=r"^indexes are on the meta device, .*; give real ones"):
        ContrastiveLoss()(z0, z1, indexes=torch.arange(4, device="meta"))


@pytest.mark.parametrize(
    "tau",
    [0, -1.0, 1e-300, 5e-324, 1e-31, 1e31, 10**400, 10**5000, Decimal("1e400"), 1e300],
    ids=lambda tau: f"{tau.bit_length()} bits" if isinstance(tau, int) else str(tau),
)
def test_a_temperature_out_of_range_is_refused(tau):
    with pytest.raises(ValueError, match=r"^temperature must be above 0 and finite, from 1e-30 to"):
        ContrastiveLoss(temperature=tau)


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=3)", "isir()"])
@pytest.mark.parametrize("tau", [1e-30, 1e-10, 1e30])
def test_temperatures_at_the_ends_of_the_range_are_finite(sampler, tau):
    z = [v.float().detach().requires_grad_() for v in naive.embeddings(2, 6)]
    loss = ContrastiveLoss(sampler, temperature=tau)(*z, indexes=torch.arange(6))
    loss.backward()
    assert loss.isfinite()
    assert all(v.grad.isfinite().all() for v in z)
