"""Memories beside trained keys: the first step warns where nothing pushes back on the anchors."""

import warnings

import pytest
import torch

import negplug

MEMORIES = [
    "queue(size=16)",
    "memory_bank()",
    "hierarchical(in_batch(), queue(size=16))",
    "gumbel_max(num_negatives=2, source=queue(size=16))",
    "hard(num_negatives=2, source=memory_bank())",
]


def steps(expression, trained, number=2):
    """Return the warnings of each training step."""
    loss_fn = negplug.ContrastiveLoss(expression, temperature=0.2)
    told = []
    for step in range(number):
        if loss_fn.sampler.wants_epoch:
            loss_fn.set_epoch(step)
        anchors, keys = torch.randn(2, 8, 4).unbind()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = loss_fn(
                anchors.requires_grad_(), keys.requires_grad_(trained), indexes=torch.arange(8)
            )
        loss.backward()
        told.append([str(warning.message) for warning in caught])
    return told


@pytest.mark.parametrize("expression", MEMORIES)
def test_trained_keys_are_told_once(expression):
    first, *others = steps(expression, trained=True)
    (message,) = first
    assert "momentum encoder" in message
    assert "schedule(in_batch(), " in message
    assert others == [[]]


@pytest.mark.parametrize("expression", MEMORIES)
def test_keys_of_a_momentum_encoder_are_left_alone(expression):
    loss_fn = negplug.ContrastiveLoss(expression, temperature=0.2)
    anchors, keys = torch.randn(8, 4, requires_grad=True), torch.randn(8, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_fn.pairs(anchors, keys, symmetric=False, indexes=torch.arange(8)).backward()


def test_lightlys_moco_loss_is_left_alone():
    NTXentLoss = pytest.importorskip("lightly.loss").NTXentLoss
    model = torch.nn.ModuleDict({"criterion": NTXentLoss(memory_bank_size=(16, 4))})
    with negplug.inject(model, "queue()"), warnings.catch_warnings():
        warnings.simplefilter("error")
        model["criterion"](torch.randn(8, 4, requires_grad=True), torch.randn(8, 4)).backward()


@pytest.mark.parametrize(
    "expression",
    [
        "schedule(in_batch(), queue(size=16), from_epochs=(0, 1))",
        "schedule(in_batch(), hierarchical(in_batch(), memory_bank()), from_steps=(0, 1))",
    ],
)
def test_a_memory_that_serves_later_is_left_alone(expression):
    assert steps(expression, trained=True) == [[], []]


def test_a_memory_that_serves_at_once_and_later_is_told():
    later = "hierarchical(in_batch(), queue(size=16))"
    shared = f"schedule(queue(size=16), {later}, from_epochs=(0, 1))"
    first, second = steps(shared, trained=True)
    assert len(first) == 1
    assert second == []
