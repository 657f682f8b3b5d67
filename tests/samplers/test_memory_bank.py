"""``memory_bank``: a dict by data set index."""

from __future__ import annotations

import hosts
import pytest
import torch
from device import DEVICE
from memories import STATE, Remembered, embed, memory, train
from resumable import same_state
from settling import settled
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.contract.dataset import DatasetAccess
from negplug.samplers import memory_bank
from negplug.samplers.memory_bank import MemoryBank


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("size", [None, 30])
@pytest.mark.parametrize("views", [2, 3])
def test_a_memory_bank_is_a_dict(momentum, size, views):
    loss_fn = ContrastiveLoss(MemoryBank(momentum, size))
    reference = Remembered(momentum)
    generator = torch.Generator().manual_seed(views)
    for step in range(12):
        batch = int(torch.randint(1, 9, (), generator=generator))
        z = embed(batch, step, views)
        # Indexes that grow, come again, and are twice in a batch.
        indexes = torch.randint(0, min(5 + 3 * step, 30), (batch,), generator=generator)
        labels = indexes % 3
        train(loss_fn, z, indexes, labels)
        reference.take_in(z, indexes)
        state = memory(loss_fn)
        names = state["names"][1].tolist()
        assert sorted(names) == sorted(reference.rows)  # each visited index once, no other
        expected = torch.stack([reference.rows[index] for index in names])
        torch.testing.assert_close(state["rows"], expected, rtol=1e-11, atol=1e-13)
        assert state["names"][2].tolist() == [index % 3 for index in names]


def test_a_bank_refuses_the_negative_indexes_of_an_adapter():
    loss_fn = ContrastiveLoss("memory_bank()")
    train(loss_fn, embed(3, 0), torch.arange(3))
    before = loss_fn.state_dict()
    (z,) = embed(4, 1, views=1)
    indexes = torch.tensor([0, -1, 0, -1], device=DEVICE)
    batch = ContrastiveBatch.from_ids(nn.functional.normalize(z, dim=1), indexes, indexes=indexes)
    with pytest.raises(ValueError, match="of every sample, but one is -1"):
        settled(loss_fn.contrast, batch)
    assert same_state(loss_fn.state_dict(), before)


def pass_by_pass(expression, samples, passes):
    """Train on passes of a data set that says how many samples it has; whose memory the loss is."""
    loss_fn = ContrastiveLoss(expression)
    for step, indexes in enumerate(passes):
        batch = ContrastiveBatch.from_views(
            tuple(view.to(DEVICE) for view in embed(len(indexes), step)),
            torch.tensor(indexes, device=DEVICE),
        )
        told = batch.within(dataset=DatasetAccess(samples, None))
        settled(loss_fn.contrast, told).backward()
        loss_fn.end_step()
    return loss_fn


@pytest.fixture(params=["looks", "looks at no value"])
def either_path(request, monkeypatch):
    """The path of a CPU, and that of a GPU."""
    looks = request.param == "looks"
    monkeypatch.setattr(memory_bank, "free_to_read", lambda device: looks and device.type == "cpu")


VIRTUAL = [[0, 1, 2], [3, 1], [7, 2]], [[8, 9], [0, 8]]
"""Passes of a data set of four, or five, that shows others each time: five, and two more."""


@pytest.mark.usefixtures("either_path")
def test_more_samples_than_the_data_set_says_that_it_has():
    few, many = VIRTUAL
    message = "memory_bank: keeps .* says that it has 4, but 1 more came; .* of all as size="
    with pytest.raises(ValueError, match=message):
        pass_by_pass("memory_bank()", 4, [*few, [1]])
    with pytest.raises(ValueError, match=message):  # nor is it saved
        pass_by_pass("memory_bank()", 4, few).state_dict()
    assert memory(pass_by_pass("memory_bank()", 5, [*few, [1]]))["count"] == 5
    found = memory(pass_by_pass("memory_bank(size=10)", 4, few + many))
    reference = Remembered(0.5)
    for step, indexes in enumerate(few + many):
        reference.take_in(embed(len(indexes), step), torch.tensor(indexes))
    assert found["names"][1].tolist() == list(reference.rows)
    torch.testing.assert_close(found["rows"].cpu(), torch.stack(list(reference.rows.values())))


class Stream(IterableDataset):
    """The recipe's samples, in an order that nobody can name."""

    def __iter__(self):
        samples = hosts.Pairs(24)
        return iter(samples[index] for index in range(len(samples)))


class Unnamed(hosts.Pairs):
    """solo-learn's samples with numbers that are no integers in the place of their indexes."""

    def __getitem__(self, index):
        first, *rest = super().__getitem__(index)
        return (float(first), *rest)


@pytest.mark.filterwarnings("ignore")
def test_a_recipe_that_cannot_say_which_samples_it_trains_on():
    if hosts.site_name() == "criterion":
        samples, reason = Stream(), "but Stream is an IterableDataset, which has no indexes"
    else:
        samples, reason = Unnamed(), "but solo-learn's batch holds no integer indexes"
    control = hosts.negative_control()("memory_bank()")
    trainer = hosts.trainer(callbacks=[control])
    message = f"memory_bank: needs the data set index of every sample, {reason}"
    with pytest.raises(ValueError, match=message):
        trainer.fit(hosts.recipe(), DataLoader(samples, batch_size=8))
    state = control.state_dict()["losses"][hosts.site_name()]
    assert state[f"sampler.{STATE}"]["values"]["count"] == 0
    assert state[STATE]["step"] == 0
