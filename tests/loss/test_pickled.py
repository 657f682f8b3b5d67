"""A loss that is copied in the middle of a step goes on as the original does."""

from __future__ import annotations

import copy
import pickle

import naive
import pytest
import torch
from device import DEVICE

from negplug import ContrastiveLoss

CHOICES = [
    ("uniform(num_negatives=2)", "infonce()"),
    ("hierarchical(in_batch(), queue(size=32))", "infonce()"),
    ("memory_bank()", "sogclr()"),
    ("emc2()", "infonce()"),
    ("isir()", "infonce()"),
]


def train(loss_fn, number):
    indexes = (torch.arange(8, device=DEVICE) + 3 * number) % 20
    loss = loss_fn(*naive.embeddings(2, 8, seed=number), indexes=indexes)
    loss.backward()
    return loss.item()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize(("sampler", "objective"), CHOICES)
def test_between_the_backward_pass_and_the_next_step(sampler, objective, how):
    loss_fn = ContrastiveLoss(sampler, objective, seed=3)
    for number in range(3):
        train(loss_fn, number)
    copied = how(loss_fn)
    rest = range(3, 6)
    assert [train(copied, number) for number in rest] == [train(loss_fn, n) for n in rest]
