"""Data set indexes in solo-learn's batches, which may be positions instead."""

from __future__ import annotations

import re

import hosts
import pytest
import ranks
import torch
from queue_contents import names_in
from solo_simclr import batch_for, step

from negplug import inject
from negplug.contract.adapter import Metadata

GENERATION = hosts.solo_generation()
if GENERATION is None:
    pytest.skip("solo-learn is not installed in this environment", allow_module_level=True)
published_only = pytest.mark.skipif(GENERATION != "1.0.2", reason="of solo-learn 1.0.2")
pytestmark = pytest.mark.filterwarnings("ignore")


class Positions:
    """Batches as DALI's loader gives them: of no torch DataLoader, indexes being positions."""

    def __init__(self, first=0, step=0):
        self.first, self.step = first, step

    def __len__(self):
        return 3

    def __iter__(self):
        for number in range(3):
            _, crops, targets = next(iter(hosts.loader()))
            yield [torch.arange(8) + self.first + self.step * number, crops, targets]


def fit_on(loader, sampler):
    torch.manual_seed(0)
    control = hosts.negative_control()(sampler)
    hosts.trainer(callbacks=[control]).fit(hosts.recipe(), loader)
    return control.injection.losses["simclr_loss_func"]


def test_positions_in_the_batch_are_no_indexes():
    wanted = "memory_bank: needs the data set index of every sample, but .* DALI does; set encode_"
    with pytest.raises(ValueError, match=wanted):
        fit_on(Positions(), "memory_bank()")
    # What needs no indexes trains on them.
    assert fit_on(Positions(), "uniform(num_negatives=2)").calls == 3


def _positions_on_a_rank(rank, world):
    try:
        fit_on(Positions(first=8 * rank), "memory_bank()")
    except ValueError as error:
        return str(error)
    return "no error"


def test_positions_are_known_on_every_rank():
    for message in ranks.run(_positions_on_a_rank, 2):
        assert "gives positions in the batch in place of indexes" in message


@pytest.mark.parametrize(
    ("loader", "first"),
    [(hosts.loader(), 0), (Positions(first=8, step=8), 8)],
    ids=["torch", "DALI with indexes in its labels"],
)
def test_indexes_are_believed_where_they_are_some(loader, first):
    # torch's are not shuffled, so the first batch's are 0 … 7 as well.
    treated = fit_on(loader, "memory_bank()")
    assert treated.calls == 3
    _, indexes, labels = names_in(treated.loss.state_dict())
    assert torch.equal(indexes, torch.arange(24) + first)
    assert torch.equal(labels, indexes % 4)


@pytest.mark.parametrize(
    ("batch", "indexes", "labels", "reason"),
    [
        ([torch.arange(4), [], torch.ones(4).long()], True, True, ""),
        ((torch.arange(4), [], torch.ones(4).long()), True, True, ""),
        ([torch.arange(4), [], torch.ones(4)], True, True, ""),
        ([torch.arange(4).int(), [], torch.ones(4, 1).byte()], True, True, ""),
        ([torch.arange(4).to(torch.uint16), [], torch.ones(4).long()], True, True, ""),
        ([torch.arange(4)[:, None], [], torch.full((4,), 0.5)], True, False, ""),
        ([torch.arange(4), [], list("abcd")], True, False, ""),
        ([torch.ones(4, 2).long(), [], torch.eye(4)], False, True, r"have the shape \(4, 2\)"),
        ([torch.arange(4.0), [], torch.ones(4).long()], False, True, "no integer indexes"),
        ([list("abcd"), [], torch.ones(4).long()], False, True, "no integer indexes"),
        ([torch.arange(4), []], False, False, r"is not \[indexes, crops, targets\]"),
        (None, False, False, r"is not \[indexes, crops, targets\]"),
    ],
)
def test_what_a_batch_tells(batch, indexes, labels, reason):
    from negplug_solo.metadata import read_metadata

    found = read_metadata(hosts.recipe(), batch, Metadata())
    assert (found.indexes is not None, found.labels is not None) == (indexes, labels)
    assert re.search(reason, found.unindexed)
    assert bool(found.unindexed) == (not indexes)
    assert bool(found.unlabeled) == (not labels)
    if labels:
        assert found.labels.dtype == torch.int64
        assert found.labels.shape == (4,)


@published_only
@pytest.mark.parametrize("small_crops", [0, 2])
@pytest.mark.parametrize("supervised", [False, True])
def test_ids_mean_the_same_in_every_batch(supervised, small_crops):
    """Also where a batch holds every label once, so that labels and samples divide it alike."""
    model = hosts.recipe(0.2, supervised=supervised, small_crops=small_crops).double()
    with inject(model, "queue(size=64)") as handle:
        for classes in (4, 2):
            batch = batch_for(model, 4, small_crops, classes)
            step(model, batch)
            (treated,) = handle.losses.values()
            treated.loss.end_step()
            expected = batch[2 if supervised else 0].repeat(2 + small_crops)
            names = names_in(treated.loss.state_dict())
            assert torch.equal(names[0, -len(expected) :], expected)


def test_what_the_user_provides_goes_before_what_the_batch_says():
    model = hosts.recipe(0.2).double()
    with inject(model, "memory_bank()") as handle:
        batch = batch_for(model)
        handle.provide(indexes=batch[0] + 1000)
        step(model, batch)
        handle.end_step()
        step(model, batch)
        handle.end_step()
    (state,) = handle.state_dict().values()
    names = names_in(state)
    assert sorted(names[1].tolist()) == [*range(100, 106), *range(1100, 1106)]


@pytest.mark.parametrize("sampler", ["memory_bank()", "queue(size=64)", "uniform(num_negatives=2)"])
def test_ids_below_zero_name_no_sample(sampler):
    model = hosts.recipe(0.2).double()
    with inject(model, sampler) as handle:
        batch = batch_for(model)
        with pytest.raises(ValueError, match=r"indexes must be at least 0, got -7; number the"):
            step(model, [batch[0] - 107, *batch[1:]])
        handle.provide(indexes=batch[0] - 107)
        with pytest.raises(ValueError, match=r"indexes must be at least 0, got -7; number the"):
            step(model, batch)


def test_hashed_ids_are_compared_or_refused():
    rows = []
    for shift in (0, 2**62):
        model = hosts.recipe(0.2).double()
        with inject(model, "queue(size=64)") as handle:
            batch = batch_for(model)
            step(model, [batch[0] + shift, *batch[1:]])
            handle.end_step()
            (state,) = handle.state_dict().values()
            rows.append(names_in(state)[1] - shift)
    assert torch.equal(*rows)
    with inject(model, "memory_bank()"):
        with pytest.raises(ValueError, match=r"memory_bank: keeps something .* number the samples"):
            step(model, [batch[0] + 2**62, *batch[1:]])


class Renumbered(hosts.Pairs):
    """Samples with another index, of a position and of how many were fetched before."""

    def __init__(self, index):
        super().__init__()
        self.index, self.fetched = index, 0

    def __getitem__(self, position):
        _, views, label = super().__getitem__(position)
        self.fetched += 1
        return self.index(position, self.fetched - 1), views, label


@pytest.mark.parametrize(
    ("index", "what"),
    [
        (lambda position, fetched: 7, "different samples .* have the index 7"),
        (lambda position, fetched: fetched % 8, r"different samples .* have the index \d"),
        (lambda position, fetched: fetched, r"position \d+ had the index \d+ and has \d+"),
    ],
    ids=["constant", "of the batch", "counted"],
)
@pytest.mark.parametrize("sampler", ["memory_bank()", "queue(size=64)"])
def test_indexes_that_do_not_name_the_samples(index, what, sampler):
    loader = torch.utils.data.DataLoader(Renumbered(index), batch_size=8, shuffle=True)
    control = hosts.negative_control()(sampler)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=f"the data set Renumbered gives indexes .* \\({what}\\)"):
        hosts.trainer(callbacks=[control], max_epochs=2).fit(hosts.recipe(), loader)


def test_indexes_that_the_recipe_hands_over_are_believed():
    model, control = hosts.recipe(), hosts.negative_control()("memory_bank()")
    step = model.training_step

    def training_step(batch, batch_idx):
        control.injection.provide(indexes=torch.arange(8) + 8 * batch_idx)
        return step(batch, batch_idx)

    model.training_step = training_step
    loader = torch.utils.data.DataLoader(Renumbered(lambda *_: 7), batch_size=8)
    hosts.trainer(callbacks=[control], max_epochs=2).fit(model, loader)
    _, indexes, _ = names_in(control.injection.losses["simclr_loss_func"].loss.state_dict())
    assert indexes.sort().values.tolist() == list(range(24))


class Stream(torch.utils.data.IterableDataset):
    """Samples in an order of its own, with an index of a sample and of how many came before."""

    def __init__(self, index):
        self.index, self.samples = index, hosts.Pairs()

    def __iter__(self):
        for count, position in enumerate(torch.randperm(24).tolist()):
            _, views, label = self.samples[position]
            yield self.index(position, count), views, label


class Fetching:
    """The same as a loader that is none of torch's."""

    def __init__(self, index):
        self.batches = torch.utils.data.DataLoader(Stream(index), batch_size=8)

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("sampler", ["memory_bank()", "queue(size=64)"])
@pytest.mark.parametrize("of_torch", [True, False])
def test_indexes_of_streams_that_do_not_name_the_samples(sampler, of_torch):
    def fit(index):
        loader = Fetching(index)
        control = hosts.negative_control()(sampler)
        torch.manual_seed(0)
        options = {"max_epochs": 2, "limit_train_batches": 3}
        trainer = hosts.trainer(callbacks=[control], **options)
        trainer.fit(hosts.recipe(), loader.batches if of_torch else loader)
        return control.injection.losses["simclr_loss_func"]

    who = "the data set Stream" if of_torch else "the training loader Fetching"
    for index, what in {
        lambda position, count: 0: "all 8 samples of a batch have the index 0",
        lambda position, count: position // 5: r"different samples have the index \d",
    }.items():
        with pytest.raises(ValueError, match=f"{who} gives indexes .* \\({what}\\)"):
            fit(index)
    with pytest.warns(UserWarning, match=r"may not name its samples \(different samples have"):
        fit(lambda position, count: count + 1)
    assert fit(lambda position, count: position).calls == 6
