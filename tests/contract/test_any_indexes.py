"""Indexes may be any integers: what they name is kept in little memory, or refused by name."""

from __future__ import annotations

import pickle

import pytest
import torch
from device import DEVICE

from negplug import ContrastiveLoss
from negplug.contract.sample_table import MOST_SAMPLES
from negplug.kernels import late

PER_SAMPLE = pytest.mark.parametrize(
    ("sampler", "objective", "name"),
    [
        ("memory_bank()", "infonce()", "memory_bank"),
        ("uniform(num_negatives=2, source=memory_bank(gather=False))", "infonce()", "memory_bank"),
        ("in_batch()", "sogclr()", "sogclr"),
        ("emc2(out_of_batch='cached')", "infonce()", "emc2"),
        ("isir(out_of_batch='drop')", "infonce()", "isir"),
    ],
)
HASHED = torch.tensor([2**62 + 11, 5, 2**40, 981_274_650_123_456_789])
SPARSE = torch.tensor([3, MOST_SAMPLES, 70, 7])
SCATTERED = torch.tensor([150_000, 12, 3, 1_999_999])


def step(loss_fn, indexes, width=6):
    torch.manual_seed(0)
    z = torch.randn(2, len(indexes), width, device=DEVICE, requires_grad=True)
    loss = loss_fn(*z, indexes=indexes.to(DEVICE))
    late.settle()
    loss.backward()
    return loss


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a GPU is not waited for: the error comes later")
@PER_SAMPLE
@pytest.mark.parametrize(
    "indexes",
    [HASHED, SPARSE, SCATTERED, HASHED.to(torch.uint64)],
    ids=["hashed", "sparse", "scattered", "unsigned"],
)
def test_a_table_is_not_made_for_the_greatest_index(sampler, objective, name, indexes):
    loss_fn = ContrastiveLoss(sampler, objective)
    step(loss_fn, torch.arange(4))
    before = str(loss_fn.state_dict())
    message = (
        f"{name}: .* the greatest index, but that is {max(indexes.tolist())}; number the samples"
    )
    with pytest.raises(ValueError, match=message):
        step(loss_fn, indexes)  # before the backward pass
    assert str(loss_fn.state_dict()) == before
    step(loss_fn, torch.arange(4))


@pytest.mark.parametrize(
    ("sampler", "objective"),
    [
        ("memory_bank(size=3000000)", "infonce()"),
        ("in_batch()", "sogclr(size=3000000)"),
        ("emc2(size=3000000, out_of_batch='drop')", "infonce()"),
    ],
)
def test_a_size_that_was_said_is_believed(sampler, objective):
    loss_fn = ContrastiveLoss(sampler, objective)
    step(loss_fn, torch.tensor([MOST_SAMPLES, 5, 2_999_999, 6]))
    loss_fn.state_dict()
    with pytest.raises(ValueError, match="index 3000000 is beyond size=3000000"):
        step(loss_fn, torch.tensor([1, 2, 3, 3_000_000]))


@PER_SAMPLE
def test_what_is_kept_without_a_size_has_bounds(sampler, objective, name):
    loss_fn = ContrastiveLoss(sampler, objective)
    for first in range(2):
        step(loss_fn, torch.tensor([first, MOST_SAMPLES - 1, 900, 31]), width=2)
    loss_fn.end_step()
    assert 100 < len(pickle.dumps(loss_fn.state_dict())) < 2**23


@pytest.mark.parametrize("sampler", ["queue(size=64)", "hard(num_negatives=2)", "gather()"])
def test_where_indexes_are_only_compared_any_will_do(sampler):
    losses = []
    for indexes in (HASHED, torch.arange(4)):
        loss_fn = ContrastiveLoss(sampler, seed=0)
        losses.append([step(loss_fn, indexes).item() for _ in range(3)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("sampler", ["memory_bank()", "queue(size=64)", "in_batch()"])
@pytest.mark.parametrize(
    ("indexes", "error", "message"),
    [
        (torch.tensor([0, -5, 1, 2]), ValueError, "indexes must be at least 0, got -5; number the"),
        (torch.tensor([0, -(2**62), 1, 2]), ValueError, "at least 0, got -4611686018427387904"),
        (torch.tensor([0, 2**64 - 1, 1, 2], dtype=torch.uint64), ValueError, "below 2.*18446744"),
        (torch.tensor([0.0, 1, 2, 3]), TypeError, "indexes must be integers, got torch.float32"),
    ],
)
def test_no_indexes_at_all(sampler, indexes, error, message):
    with pytest.raises(error, match=message):
        step(ContrastiveLoss(sampler), indexes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint64])
def test_integers_of_any_width(dtype):
    indexes = torch.tensor([3, 1, 2, 0])
    states = []
    for given in (indexes, indexes.to(dtype), indexes[:, None].to(dtype)):
        loss_fn = ContrastiveLoss("memory_bank()", seed=0)
        step(loss_fn, given)
        states.append(str(loss_fn.state_dict()))
    assert states[0] == states[1] == states[2]
