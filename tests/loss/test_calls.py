"""Calls and steps of ``ContrastiveLoss``: when updates happen, what is drawn, what is resumed."""

from __future__ import annotations

import naive
import pytest
import torch
from device import DEVICE

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Negatives,
    NegativeSampler,
    Rows,
    Sampled,
)

SAMPLERS = [
    "in_batch()",
    "uniform(num_negatives=4)",
    "uniform(num_negatives=4, correction=True)",
    "uniform(num_negatives=4, shared=True)",
    "uniform(num_negatives=4, shared=True, correction=True)",
]


class Ring(NegativeSampler):
    """Writes into its pool in place, as a queue does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("pool", torch.nn.functional.normalize(torch.ones(4, 16).double()))

    def sample(self, batch):
        return Sampled(Negatives(Rows.unknown(self.pool)), batch.keys.embeddings[:4].detach())

    def update(self, seen):
        self.pool.copy_(seen)


def test_updates_wait_for_the_backward_pass_of_every_call():
    z = naive.embeddings(2, 8)
    loss_fn = ContrastiveLoss(Ring()).to(DEVICE)
    before = loss_fn.sampler.pool.clone()
    batch = ContrastiveBatch.from_views(tuple(z))
    first, second = loss_fn.contrast(batch), loss_fn.contrast(batch)
    assert torch.equal(loss_fn.sampler.pool, before)
    (first + second).backward()
    assert torch.equal(loss_fn.sampler.pool, before)
    loss_fn(*z)
    assert torch.equal(loss_fn.sampler.pool, batch.keys.embeddings[:4])


def test_a_bad_seed_is_named():
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
        ContrastiveLoss(seed=1.5)


def trained(loss_fn, z):
    """The value of a training step."""
    loss = loss_fn(*z)
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_global_generator_is_not_touched(sampler):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ContrastiveLoss(sampler)(*naive.embeddings(2, 8)).backward()
    assert torch.equal(before, torch.get_rng_state())


def test_draws_change_with_step_and_seed_and_repeat_with_both():
    z = naive.embeddings(2, 8)

    def values(seed):
        loss_fn = ContrastiveLoss("uniform(num_negatives=2)", seed=seed)
        return [trained(loss_fn, z) for _ in range(3)]

    assert values(0) == values(0)
    assert len(set(values(0)) | set(values(1))) == 6


def test_the_default_seed_is_the_recipes():
    z = naive.embeddings(2, 8)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(ContrastiveLoss("uniform(num_negatives=2)")(*z).item())
    assert values[0] == values[1] != values[2]


def test_state_dict_resumes_the_draws_and_loads_without_pickle(tmp_path):
    z = naive.embeddings(2, 8)
    straight = ContrastiveLoss("uniform(num_negatives=2)", seed=0)
    expected = [trained(straight, z) for _ in range(4)]
    first = ContrastiveLoss("uniform(num_negatives=2)", seed=0)
    assert [trained(first, z) for _ in range(2)] == expected[:2]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = ContrastiveLoss("uniform(num_negatives=2)", seed=99)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [trained(second, z) for _ in range(2)] == expected[2:]


def test_evaluation_samples_but_moves_no_counter():
    z = naive.embeddings(2, 8)
    loss_fn = ContrastiveLoss("uniform(num_negatives=2)", seed=0)
    with torch.no_grad():
        first, second = loss_fn(*z), loss_fn(*z)
    assert first == second == trained(loss_fn, z)
    assert trained(loss_fn, z) != first


def test_a_module_that_holds_the_loss_saves_its_state():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.criterion = ContrastiveLoss("uniform(num_negatives=2)", seed=4)
    assert model.state_dict()["criterion._extra_state"] == {
        "format": 2,
        "seed": 4,
        "step": 0,
        "call": 0,
        "further": 0,
    }


@pytest.mark.parametrize("sampler", ["uniform(num_negatives=10)", "hard(num_negatives=10)"])
def test_a_resumed_run_may_begin_with_a_ragged_batch(sampler):
    straight, resumed = ContrastiveLoss(sampler, seed=0), ContrastiveLoss(sampler, seed=9)
    straight(*naive.embeddings(2, 8)).backward()
    resumed.load_state_dict(straight.state_dict())
    losses = []
    for loss_fn in (straight, resumed):
        with pytest.warns(UserWarning, match="offers (4|at most 6) negatives instead of num_n"):
            losses.append(loss_fn(*naive.embeddings(2, 3)))
    assert torch.equal(*losses)
    # In a first step it is an error: a full batch has no more.
    with pytest.raises(ValueError, match="num_negatives=10 is more than the 4 negatives"):
        ContrastiveLoss(sampler)(*naive.embeddings(2, 3))
