"""Indexes are given only where the collate function keeps the rows that the sampler drew."""

from __future__ import annotations

import copy
import pickle

import hosts
import numpy as np
import pytest
import torch
from index_recipes import (
    SIZE,
    Numbered,
    Recording,
    assert_recorded_and_unchanged,
    fit,
    make,
)
from queue_contents import names_in
from torch.utils.data import DataLoader, default_collate

pytestmark = pytest.mark.filterwarnings("ignore")
WORKERS = pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "persistent_workers": True}])


def stacked(samples):
    noise = torch.rand(1) * 1e-3  # a draw from the generator of whoever collates
    features, indexes = zip(*samples, strict=True)
    return torch.stack(features) + 0 * noise, torch.tensor(indexes)


def by_feature(samples):
    samples.sort(key=lambda sample: float(sample[0][0]))  # in place
    return default_collate(samples)


def but_the_first(samples):
    return default_collate(samples[1:])


def fill_up(samples):
    return default_collate([*samples[:-1], samples[0]])


def twice(samples):
    return default_collate([sample for sample in samples for _ in range(2)])


def by_numpy(samples):
    """Images elsewhere, and out of torch's sight; indexes where they were."""
    features, indexes = stacked(samples)
    return torch.from_numpy(features.numpy()[::-1].copy()), indexes


class Pack:
    """Two samples in each row."""

    def __call__(self, samples):
        features, indexes = stacked(samples)
        return features.reshape(-1, 6)[:, :3], indexes[::2]


class Hidden:
    """Rows that no sample resembles."""

    def __call__(self, samples):
        features, indexes = stacked(samples)
        return features + torch.rand(1), -1 - indexes


@WORKERS
def test_a_collate_function_that_keeps_its_samples(workers):
    assert_recorded_and_unchanged(
        lambda callbacks: fit(make(collate_fn=stacked, **workers), callbacks)
    )


@WORKERS
@pytest.mark.parametrize(
    ("collate", "name", "what"),
    [
        (by_feature, "by_feature", "drops, moves or repeats samples"),
        (but_the_first, "but_the_first", "drops, moves or repeats samples"),
        (fill_up, "fill_up", "drops, moves or repeats samples"),
        (
            twice,
            "twice",
            "drops, moves or repeats samples (sample 0 of a batch was lost, replaced or",
        ),
        (by_numpy, "by_numpy", "drops, moves or repeats samples (row 0 of a batch was sample 9"),
        (Pack(), "Pack", "drops, moves or repeats samples"),
        (Hidden(), "Hidden", "leaves nothing in a batch by which its samples can be told"),
    ],
)
def test_one_that_does_not(collate, name, what, workers):
    def run(callbacks):
        return fit(make(collate_fn=collate, batch_size=10, **workers), callbacks, max_epochs=2)

    recording = Recording()
    treated, untreated = run([recording]), run([])
    assert recording.recorded == [None] * 6
    assert f"the collate function {name} {what}" in recording.recorder.reason
    assert (
        "hand the batch's over in training_step, by provide(indexes=…)" in recording.recorder.reason
    )
    assert treated.seen == untreated.seen
    assert torch.equal(hosts.parameters(treated), hosts.parameters(untreated))


def test_a_fault_that_comes_later_is_found():
    calls = []

    def at_last(samples):
        calls.append(len(samples))
        return by_feature(samples) if len(calls) > 9 else default_collate(samples)

    recording = Recording()
    module = fit(make(collate_fn=at_last), [recording])
    assert recording.recorded[:9] == module.seen[:9]
    assert recording.recorded[9:] == [None] * 9


def test_the_last_batch_of_one_sample():
    recording = Recording()
    loader = make(collate_fn=stacked, batch_size=SIZE - 1)
    assert fit(loader, [recording]).seen == recording.recorded
    assert [len(batch) for batch in recording.recorded] == [SIZE - 1, 1] * 3


def test_the_collate_function_comes_back():
    class Looking(hosts.lightning().Callback):
        def on_train_start(self, trainer, pl_module):
            watched = loader.collate_fn
            assert watched is not own
            assert watched.note == "of the recipe"
            assert type(copy.deepcopy(watched)) is type(own)
            samples = [dataset[n] for n in (3, 1)]
            twin = pickle.loads(pickle.dumps(watched))
            assert type(twin) is type(own)
            assert torch.equal(twin(samples)[1], own(samples)[1])

    own, dataset = Pack(), Numbered()
    own.note = "of the recipe"
    loader = make(collate_fn=own)
    for _ in range(2):
        fit(loader, [Recording(), Looking()], max_epochs=1)
        assert loader.collate_fn is own
    assert make().collate_fn is default_collate


def test_workers_that_were_at_work_before():
    for collate, known in ((stacked, False), (default_collate, True)):
        loader = make(num_workers=1, persistent_workers=True, collate_fn=collate)
        next(iter(loader))
        recording = Recording()
        module = fit(loader, [recording], max_epochs=1)
        assert (recording.recorded == module.seen) == known
        assert ("was at work before fit, in workers" in recording.recorder.reason) != known


def control(sampler, collate, module=None, callback=None):
    module = hosts.recipe() if module is None else module
    callback = hosts.negative_control()(sampler) if callback is None else callback
    loader = DataLoader(hosts.Pairs(), batch_size=8, collate_fn=collate)
    hosts.trainer(callbacks=[callback]).fit(module, loader)
    return names_in(callback.injection.state_dict()[hosts.site_name()])


def backwards(samples):
    return default_collate(samples[::-1])


def images_backwards(samples):
    """In NumPy, and normalised; the rest stays."""
    batch = default_collate(samples)
    return [
        [torch.from_numpy((x.numpy()[::-1] - 0.4) / 0.3) for x in part]
        if isinstance(part, list) and isinstance(part[0], torch.Tensor)
        else part
        for part in batch
    ]


def test_state_per_sample_of_a_recipe_whose_collate_function_moves_samples():
    if hosts.solo_generation():
        # Its batches bring their indexes, wherever the samples went.
        _, indexes, labels = control("memory_bank()", backwards)
        assert indexes.sort().values.tolist() == list(range(24))
        assert torch.equal(labels, indexes % 4)
        for sampler in ("memory_bank()", "queue(size=64)"):
            with pytest.raises(ValueError, match=r"images_backwards moves.* mixes samples"):
                control(sampler, images_backwards)
        return
    with pytest.raises(ValueError, match="but the collate function backwards drops, moves or"):
        control("memory_bank()", backwards)
    with pytest.raises(ValueError, match="but the collate function images_backwards drops, moves"):
        control("memory_bank()", images_backwards)
    # What needs no indexes trains on, with the labels that the rows do have.
    _, indexes, labels = control("queue(size=64)", backwards)
    assert (indexes == -1).all()
    expected = (torch.arange(24).view(3, 8).flip(1) % 4).repeat(1, 2).flatten()
    assert torch.equal(labels, expected)


@pytest.mark.skipif(bool(hosts.solo_generation()), reason="its batches bring their indexes")
def test_indexes_that_the_recipe_hands_over():
    module, callback = hosts.recipe(), hosts.negative_control()("memory_bank()")
    step = module.training_step

    def training_step(batch, batch_idx):
        indexes = torch.tensor([int(name.removesuffix(".png")) for name in batch[2]])
        callback.injection.provide(indexes=indexes, labels=batch[1])
        return step(batch, batch_idx)

    module.training_step = training_step
    _, indexes, labels = control("memory_bank()", backwards, module, callback)
    assert indexes.sort().values.tolist() == list(range(24))
    assert torch.equal(labels, indexes % 4)


class Database(hosts.Pairs):
    """``SELECT … WHERE id IN (…)``: in the order of the ids, each once."""

    def __getitems__(self, indexes):
        return [self[index] for index in sorted(set(indexes))]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_fetches_batches_in_another_order(workers):
    loader = DataLoader(Database(), batch_size=8, shuffle=True, num_workers=workers)
    fit_on = hosts.trainer(callbacks=[hosts.negative_control()("memory_bank()")]).fit
    if hosts.solo_generation():
        fit_on(hosts.recipe(), loader)  # each sample with its index
        return
    with pytest.raises(ValueError, match="the data set Database fetches batches by a __getitems__"):
        fit_on(hosts.recipe(), loader)
    assert loader.collate_fn is default_collate


@pytest.mark.skipif(bool(hosts.solo_generation()), reason="its batches bring their indexes")
def test_images_that_cannot_be_followed_are_warned_of():
    def cropped(samples):
        batch = default_collate(samples)
        views = [view.numpy().copy() for view in batch[0]]
        for image in (image for view in views for image in view):
            image[:] = np.roll(image, int(torch.randint(8, ())), axis=2)
        batch[0] = [torch.from_numpy(view) for view in views]
        return batch

    with pytest.warns(UserWarning, match="cropped makes rows of which it cannot be told which"):
        control("memory_bank()", cropped)
