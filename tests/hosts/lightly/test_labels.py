"""Labels and indexes of Lightly's batches, in training and in validation."""

from __future__ import annotations

import collections

import hosts
import pytest
import torch
from resumable import same_state
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader
from two_criteria import _site_of

import negplug

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss
Batch = collections.namedtuple("Batch", ["images", "y"])


def test_labels_of_lightlys_batches():
    labels = _site_of(NTXentLoss()).labels
    view, target = torch.zeros(4, 3, 8, 8), torch.tensor([1, 0, 3, 1])
    assert torch.equal(labels([[view, view], target, ["a", "b", "c", "d"]]), target)
    assert torch.equal(labels((view, target)), target)
    for taken in (target.float(), target.int()[:, None], one_hot(target), {"label": target}):
        assert torch.equal(labels([[view, view], taken]), target)
    for batch in (
        {"image": view, "target": target},
        Batch(view, target),
        Batch(view, target)._asdict(),
    ):
        assert torch.equal(labels(batch), target)
    with pytest.raises(
        ValueError, match=r"second entry of the batch must be .* shape \(4, 3, 8, 8\)"
    ):
        labels((view, view))
    with pytest.raises(ValueError, match=r"one-hot rows \[4, C\], got shape \(3,\)"):
        labels([[view, view], target[:3]])
    assert labels([[view, view]]) is None
    with pytest.raises(ValueError, match=r"have one of the fields label, .* fields \['image'\]"):
        labels({"image": view})
    assert labels(None) is None
    assert labels([[], target]) is None
    assert labels(view) is None


def test_labels_reach_the_batch_in_a_run():
    import hosts

    seen = []

    class Watching(negplug.NegativeSampler):
        def sample(self, batch):
            seen.append(batch.anchors.labels)
            return negplug.make_sampler("in_batch()").sample(batch)

    trainer = hosts.trainer(callbacks=[hosts.negative_control()(Watching())])
    trainer.fit(hosts.recipe(), hosts.loader())
    wanted = (torch.arange(24) % 4).view(3, 8).repeat(1, 2)  # both views
    assert torch.equal(torch.stack(seen).cpu(), wanted)


class Named(hosts.Pairs):
    """Samples whose batch is a mapping."""

    def __getitem__(self, index):
        (view, _), label, _ = super().__getitem__(index)
        return {"image": view, "label": label}


@pytest.mark.parametrize("handed_over", [True, False])
def test_another_loaders_batch_is_no_batch_of_labels(handed_over):
    images = torch.utils.data.TensorDataset(*hosts.Pairs(24).noise.unbind(1))
    loaders = [DataLoader(each, batch_size=8) for each in (images, Named(24))]
    control = hosts.negative_control()("filtered(by='labels')")
    module = hosts.recipe()
    step, own = module.training_step, torch.arange(8) % 2

    def training_step(batch, batch_idx):
        if handed_over:
            control.injection.provide(labels=own)
        return step([batch[0]], batch_idx)

    module.training_step = training_step
    trainer = hosts.trainer(callbacks=[control], max_steps=2)
    if handed_over:
        trainer.fit(module, loaders)
        return
    with pytest.raises(ValueError, match=r"collection of loaders.* provide\(labels=…\)"):
        trainer.fit(module, loaders)


class Unlabelled(hosts.Pairs):
    """Images of another data set, without labels."""

    def __getitem__(self, index):
        views, _, name = super().__getitem__(index)
        return views, name


def _validated(sampler, validation):
    """Fit with a validation loss after every step, if there are data for it."""
    hosts.lightning().seed_everything(0)
    module, losses = hosts.recipe(), []
    if validation is not None:
        step = module.training_step
        module.validation_step = lambda batch, batch_idx: losses.append(
            float(step(batch, batch_idx))
        )
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=2, val_check_interval=1)
    trainer.fit(module, hosts.loader(), validation and DataLoader(validation, batch_size=10))
    return hosts.parameters(module), control.state_dict(), losses


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    "sampler",
    [
        "memory_bank()",
        "stratified(num_negatives=2, by='labels')",
        "filtered(by='labels')",
        "hard(num_negatives=4, source=filtered(memory_bank(), by='labels'))",
    ],
)
def test_a_validation_loss_changes_nothing(sampler, labelled):
    other = hosts.Pairs(30) if labelled else Unlabelled(30)
    weights, state, losses = _validated(sampler, other)
    # Two batches before training, three after each of 2·3 steps.
    assert len(losses) == 2 + 6 * 3
    assert min(losses[2:]) > 0
    alone, without, _ = _validated(sampler, None)
    assert torch.equal(weights, alone)
    assert same_state(state, without)


@pytest.mark.filterwarnings("ignore")
def test_a_validation_batch_has_its_labels_and_no_index():
    seen = []

    class Watching(negplug.NegativeSampler):
        wants_indexes = True

        def sample(self, batch):
            seen.append((batch.training, batch.anchors.labels, batch.anchors.indexes))
            return negplug.make_sampler("in_batch()").sample(batch)

    _validated(Watching(), hosts.Pairs(30))
    evaluations = [(labels, indexes) for training, labels, indexes in seen if not training]
    assert len(evaluations) == 2 + 6 * 3
    for number, (labels, indexes) in enumerate(evaluations):
        first = 10 * (number if number < 2 else (number - 2) % 3)
        assert torch.equal(labels.cpu(), ((torch.arange(10) + first) % 4).repeat(2))
        assert indexes is None
    assert all(indexes is not None for training, _, indexes in seen if training)
