"""Samplers that look a column of the data set up, in recipes and in plain loops."""

from __future__ import annotations

import hosts
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

import negplug
from negplug import ContrastiveLoss
from negplug.samplers.filtered import Filtered

pytestmark = pytest.mark.filterwarnings("ignore")
SOLO = bool(hosts.solo_generation())


def patients(size=24, number=5):
    dataset = hosts.Pairs(size)
    dataset.patient_id = [f"patient {index % number}" for index in range(size)]
    return dataset


def trained(expression, dataset, **kwargs):
    hosts.lightning().seed_everything(0)
    module, control = hosts.recipe(), hosts.negative_control()(expression, **kwargs)
    loader = DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True)
    hosts.trainer(callbacks=[control], max_epochs=2).fit(module, loader)
    return hosts.parameters(module), control.injection.losses[hosts.site_name()].loss.sampler


@pytest.mark.parametrize(
    ("by_column", "by_table"),
    [
        ("filtered(by='patient_id')", "filtered(by='groups', file={table})"),
        (
            "filtered(by='patient_id', source=queue(size=40))",
            "filtered(by='groups', file={table}, source=queue(size=40))",
        ),
        (
            "stratified(num_negatives=2, same=0.5, by='patient_id')",
            "stratified(num_negatives=2, same=0.5, by={table})",
        ),
    ],
)
def test_a_recipe_trains_as_with_a_table(by_column, by_table, tmp_path):
    import numpy as np

    path = str(tmp_path / "patients.npy")
    np.save(path, np.arange(24) % 5)
    ours, _ = trained(by_column, patients())
    theirs, _ = trained(by_table.format(table=repr(path)), patients())
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, trained("in_batch()", patients())[0])


@pytest.mark.skipif(SOLO, reason="its batches number the parent's samples themselves")
def test_the_samples_of_subsets_and_joined_data_sets():
    dataset = ConcatDataset([Subset(patients(30), range(3, 15)), patients(12, number=3)])
    _, sampler = trained("filtered(by='patient_id')", dataset)
    names = [f"patient {index % 5}" for index in range(3, 15)]
    names += [f"patient {index % 3}" for index in range(12)]
    table = sampler.file._groups.table
    assert (table[:, None] == table).tolist() == [[a == b for a in names] for b in names]


@pytest.mark.skipif(not SOLO, reason="its batches number the samples of what they came from")
def test_samples_that_say_their_own_numbers():
    _, sampler = trained("filtered(by='patient_id')", Subset(patients(30), range(3, 27)))
    assert len(sampler.file._groups.table) == 30


def test_a_composer_counts_the_samples_of_a_subset_and_so_do_columns():
    places = [29, 3, 20, 7, 11, 26, 5, 16, 2, 9, 1, 14, 28, 17, 21, 0]
    composed = {"compose": "random_walk()"}
    _, sampler = trained("filtered(by='patient_id')", Subset(patients(30), places), **composed)
    who, table = torch.tensor(places) % 5, sampler.file._groups.table
    assert torch.equal(table[:, None] == table, who[:, None] == who)


def changed(hook, change, dataset, expression, epochs=3):
    """Fit on a data set that a callback changes; return the table of groups at each epoch's end."""
    hosts.lightning().seed_everything(0)
    control, seen = hosts.negative_control()(expression), []

    class Changes(hosts.lightning().Callback):
        def on_train_batch_end(self, *_):
            sampler = control.injection.losses[hosts.site_name()].loss.sampler
            seen.append(sampler.file._groups.table)

    changes = Changes()
    setattr(changes, hook, lambda trainer, module: change(dataset, trainer.current_epoch))
    options = {"max_epochs": epochs, "reload_dataloaders_every_n_epochs": 1}
    loader = DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True)
    hosts.trainer(callbacks=[control, changes], **options).fit(hosts.recipe(), loader)
    return seen


def groups(values):
    values = torch.tensor(values)
    return values[:, None] == values


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_epoch_end"])
def test_pseudo_labels_that_are_made_anew_in_each_epoch(hook):
    labels = [[index // number % 5 for index in range(24)] for number in (1, 2, 3, 4)]

    def cluster(dataset, epoch):
        dataset.cluster = labels[epoch + (hook == "on_train_epoch_end")]

    dataset = patients()
    dataset.cluster = labels[0]
    tables = changed(hook, cluster, dataset, "filtered(by='cluster')")
    assert len(tables) == 9
    for step, table in enumerate(tables):
        assert torch.equal(groups(table.tolist()), groups(labels[step // 3]))


@pytest.mark.skipif(SOLO, reason="its batches number the parent's samples themselves")
@pytest.mark.parametrize(
    "expression", ["filtered(by='patient_id')", "filtered(by='groups', file={table}, parent=True)"]
)
def test_a_subset_that_grows_in_place(expression, tmp_path):
    import numpy as np

    path = str(tmp_path / "patients.npy")
    np.save(path, np.arange(40) % 5)
    places = [39, 3, 20, 7, 11, 26, 5, 16]
    grown = [[*places, *range(28, 28 + 8 * epoch)] for epoch in range(2)]

    def grow(dataset, epoch):
        if not epoch:
            dataset.indices[:] = [*reversed(grown[1])]

    subset = Subset(patients(40), list(grown[0]))
    tables = changed("on_train_epoch_end", grow, subset, expression.format(table=repr(path)), 2)
    for epoch, table in [(0, tables[0]), (1, tables[-1])]:
        who = [place % 5 for place in [grown[0], grown[1][::-1]][epoch]]
        assert torch.equal(groups(table.tolist()), groups(who))


def test_a_column_that_is_not_there():
    message = r"filtered: by='patient': Pairs of 24 has no column 'patient' .* it has patient_id"
    with pytest.raises(ValueError, match=message):
        trained("filtered(by='patient')", patients())


def test_a_plain_loop_provides_its_data_set():
    dataset, indexes = patients(), torch.arange(8)
    groups = torch.arange(24) % 5
    z = [torch.randn(8, 16, requires_grad=True) for _ in range(2)]
    with negplug.inject(hosts.recipe(), "filtered(by='patient_id')") as handle:
        (treated,) = handle.losses.values()

        def call():
            from negplug import ContrastiveBatch

            batch = ContrastiveBatch.from_views(tuple(z), indexes=indexes)
            return treated.loss.contrast(batch, dataset=treated.dataset)

        with pytest.raises(ValueError, match=r"by='patient_id' .* provide\(dataset=…\)"):
            call()
        handle.provide(indexes=indexes, dataset=dataset)
        ours = call()
        assert treated.dataset.size == 24
        table = negplug.make_sampler("filtered(by='labels')")
        labels = ContrastiveLoss(table, temperature=treated.loss.temperature)(*z, labels=groups[:8])
        assert torch.equal(ours, labels)


def test_a_loss_by_itself_has_no_data_set():
    loss_fn = ContrastiveLoss("stratified(num_negatives=2, by='patient_id')")
    z = [torch.randn(8, 16, requires_grad=True) for _ in range(2)]
    with pytest.raises(ValueError, match="a column of the data set, which is unknown here"):
        loss_fn(*z, indexes=torch.arange(8))
    with torch.no_grad():  # an evaluation of other samples, of which nothing is known
        assert loss_fn(*z, indexes=torch.arange(8)).isfinite()
    with pytest.raises(ValueError, match=r"parent=True is said of a file or a tensor, got by='a'"):
        negplug.make_sampler("stratified(2, by='a', parent=True)")
    with pytest.raises(ValueError, match=r"window=2 is said of by=\"groups\", got by='a'"):
        negplug.make_sampler("filtered(by='a', window=2)")


def test_a_frozen_encoder_guides_a_recipe_as_its_embeddings_do():
    table = torch.nn.functional.normalize(torch.arange(72).reshape(24, 3).float().sin())
    asked = []

    def teacher(indexes):
        asked.extend(indexes.tolist())
        return table[indexes]

    by_function, _ = trained(Filtered(relative_margin=0.5, guide=teacher), patients())
    by_table, _ = trained(Filtered(relative_margin=0.5, guide=table), patients())
    assert torch.equal(by_function, by_table)
    assert asked == list(range(24))
    assert not torch.equal(by_function, trained("in_batch()", patients())[0])
