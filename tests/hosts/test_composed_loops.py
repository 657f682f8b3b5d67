"""Composed batches in a plain loop."""

from __future__ import annotations

import pytest
import torch
from composed_loops import BATCH, SIZE, WALK, Loop, Points, Sorted, sampler
from torch.utils.data import DataLoader, IterableDataset, Subset

from negplug import ComposedBatchSampler


def flat(batches):
    return [sample for batch in batches for sample in batch]


@pytest.mark.parametrize("composer", [WALK, "clustered(num_neighbors=3)", "balanced(by='kinds')"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_sample_is_in_one_batch_of_an_epoch(composer, drop_last):
    batches = sampler(composer, drop_last=drop_last)
    left = set()
    for held in Loop(batches).train(*range(4)).epochs:
        assert len(held) == len(batches)
        assert [len(batch) for batch in held] == [4] * 6 + [2] * (not drop_last)
        assert len(set(flat(held))) == len(flat(held))
        left |= set(range(SIZE)) - set(flat(held))
    assert (len(left) > 2) == drop_last  # dropped ones are others each time


def test_the_first_epoch_is_random_and_the_next_is_composed_of_its_embeddings():
    composer = Sorted()
    loop = Loop(sampler(composer)).train(0)
    assert not composer.given
    random = Loop(sampler(composer, seed=8)).train(0).epochs
    assert loop.epochs[0] != random[0]
    rows = dict(loop.rows)
    loop.train(1)
    (given,) = composer.given
    assert given.batches == (4,) * 6 + (2,)
    for place, index in enumerate(given.samples.tolist()):
        torch.testing.assert_close(given.embeddings[place], rows[index])
    order = sorted(range(SIZE), key=lambda index: rows[index][0])
    wanted = {frozenset(order[first : first + BATCH]) for first in range(0, SIZE, BATCH)}
    assert set(map(frozenset, loop.epochs[1])) == wanted
    assert flat(loop.epochs[1]) != order  # batches come in random order


def test_one_tensor_is_embeddings_of_one_view():
    composer = Sorted()
    batches = sampler(composer)
    for epoch in range(2):
        batches.set_epoch(epoch)
        for places in batches:
            points = batches.dataset.points[places]
            batches.update(torch.tensor(places), points.double().requires_grad_())
    (given,) = composer.given
    wanted = torch.nn.functional.normalize(batches.dataset.points.double())
    torch.testing.assert_close(given.embeddings, wanted[given.samples])
    assert not given.embeddings.requires_grad


def test_the_composer_sees_columns_from_the_first_epoch_on_and_needs_no_update():
    places = [9, 3, 20, 5, 8, 14, 1, 7]  # of a subset, whose samples are numbered from 0
    data = Subset(Points(), places)
    loop = Loop(sampler("balanced(by='kinds')", data)).train(0, 1, embed=False)
    for held in loop.epochs:
        kinds = [sum(index % 2 for index in batch) for batch in held]
        assert sorted(flat(held)) == sorted(places)
        assert all(1 <= kind <= 3 for kind in kinds)


@pytest.mark.parametrize("composer", [WALK, "clustered(num_neighbors=3)", "balanced(by='kinds')"])
def test_a_resumed_loop_equals_an_uninterrupted_one(composer, tmp_path):
    straight = Loop(sampler(composer)).train(0, 1)
    saved = straight.batches.state_dict(), straight.net.state_dict()
    torch.save(saved, tmp_path / "half.pt")
    straight.train(2, 3)
    state, net = torch.load(tmp_path / "half.pt", weights_only=True)
    again = Loop(sampler(composer, seed=99))
    again.batches.load_state_dict(state)
    again.net.load_state_dict(net)
    again.train(2, 3)
    assert again.epochs == straight.epochs[2:]
    assert torch.equal(again.weights(), straight.weights())


def test_the_seed_and_the_epoch_decide_the_draws_and_workers_do_not():
    data = Points()
    first = Loop(sampler(dataset=data)).train(0, 1).epochs
    assert Loop(sampler(dataset=data), num_workers=1).train(0, 1).epochs == first
    assert Loop(sampler(dataset=data, seed=8)).train(0).epochs[0] != first[0]
    assert Loop(sampler(dataset=data)).train(5).epochs[0] != first[0]
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    batches = ComposedBatchSampler(WALK, dataset=data, batch_size=BATCH)
    assert list(batches) == first[0]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_a_loop_forgets_is_said():
    loop = Loop(sampler()).train(0)
    with pytest.warns(UserWarning, match="epoch 0 begins again, with the draws that it had; call"):
        next(iter(loop.loader))
    loop = Loop(sampler()).train(0, embed=False)
    with pytest.raises(ValueError, match="has no embeddings after a whole epoch; call update"):
        loop.train(1)
    loop = Loop(sampler()).train(0, 1)
    loop.train(2, embed=False)
    with pytest.warns(UserWarning, match=r"update\(\) was given 0 of the 26 samples of epoch 2"):
        loop.train(3)


class Endless(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"composer": "uniform()"}, "unknown composer 'uniform'"),
        ({"composer": 3}, "an expression must be a string, got int"),
        ({"dataset": Endless()}, "dataset must have a length and samples by number, got Endless"),
        ({"dataset": iter([1])}, "dataset must have a length .*, got list_iterator of length None"),
        ({"batch_size": 0}, "ComposedBatchSampler: batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, "ComposedBatchSampler: batch_size must be an integer, got 2.0"),
        ({"batch_size": 27, "drop_last": True}, "leaves no batch of 26 samples; lower it"),
        ({"seed": "7"}, "seed must be an integer, got '7'"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sampler(**options)


ROWS = torch.eye(4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.arange(4),), r"update\(\) needs the embeddings of the samples too"),
        ((torch.arange(3), ROWS), r"indexes must be a tensor \[4\], one entry per sample"),
        ((torch.arange(4.0), ROWS), "indexes must be integers, got torch.float32"),
        ((None, ROWS), "indexes must be a tensor of integers, got None"),
        ((torch.arange(4) + 23, ROWS), "from 0 to 25, but those that were provided go from 23"),
        ((torch.arange(4), ROWS[0]), r"embeddings must have shape \[B, d\]"),
        ((torch.arange(4), ROWS, ROWS[:3]), r"all views must have one shape \[B, d\]"),
        ((torch.arange(4), ROWS * torch.nan), "embeddings holds NaN or infinite embeddings"),
        ((torch.arange(4), ROWS[:, :3]), "has embeddings of width 4 and was given some of width 3"),
    ],
)
def test_bad_embeddings_are_refused_in_one_sentence(given, message):
    batches = sampler()
    batches.update(torch.arange(4), ROWS)
    with pytest.raises((TypeError, ValueError), match=message):
        batches.update(*given)


def test_a_state_of_something_else_is_refused():
    batches = Loop(sampler()).train(0).batches
    state = batches.state_dict()
    with pytest.raises(ValueError, match=r"was written with compose=random_walk.*, this run has"):
        sampler("clustered()").load_state_dict(state)
    with pytest.raises(ValueError, match="the file is damaged"):
        batches.load_state_dict(state | {"epoch": None})
    with pytest.raises(ValueError, match="this run has compose=random_walk"):
        batches.load_state_dict(5)
    other = sampler(dataset=Points(20))
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="has embeddings of 26 samples, but the training data set"):
        next(iter(DataLoader(other.dataset, batch_sampler=other)))
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        batches.set_epoch(-1)
