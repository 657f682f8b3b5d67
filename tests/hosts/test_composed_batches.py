"""Batches composed in the place of the recipe's own, with a real recipe in a real Trainer."""

from __future__ import annotations

import armed
import hosts
import numpy as np
import pytest
import torch
from composing import BATCH, SIZE, WALK, Seen, Sorted, fit, loader
from resumable import same_state
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from negplug import Rows, make_composer
from negplug.hosts.composing.embedding_bank import EmbeddingBank
from negplug.hosts.trainer.composition import Composition

pytestmark = pytest.mark.filterwarnings("ignore")


def flat(batches):
    return [sample for batch in batches for sample in batch]


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_sample_is_seen_once_per_epoch(drop_last):
    epochs = fit(WALK, loader(drop_last=drop_last), epochs=4)[2]
    untreated = fit(None, loader(drop_last=drop_last), epochs=1)[2]
    assert epochs[0] == untreated[0]  # nothing is known yet
    left = set()
    for batches in epochs:
        assert [len(batch) for batch in batches] == [8, 8, 8] + [2] * (not drop_last)
        assert len(set(flat(batches))) == len(flat(batches))
        left |= set(range(SIZE)) - set(flat(batches))
    assert bool(left) == drop_last
    assert not drop_last or len(left) > 2  # not the same ones each time
    assert epochs[1] != epochs[2] != epochs[3]


def test_composed_by_the_last_embedding_of_each_sample_that_steps_have_computed():
    composer, rows = Sorted(), {}

    class Noting(hosts.lightning().Callback):
        def on_train_start(self, trainer, *_):
            (control,) = (c for c in trainer.callbacks if hasattr(c, "composition"))
            for treated in control.injection.losses.values():
                treated.loss.witness = self.note

        def note(self, batch, _):
            if not composer.given:  # the first epoch
                z = batch.anchors.embeddings.detach()
                for row, index in enumerate(batch.anchors.indexes.tolist()):
                    rows.setdefault(index, []).append(z[row])

    epochs = fit(composer, epochs=2, extra=[Noting()])[2]
    (given,) = composer.given
    assert given.batches == (8, 8, 8, 2)
    firsts = {}
    for place, index in enumerate(given.samples.tolist()):
        first, second = rows[index]  # two views
        mean = torch.nn.functional.normalize(first + second, dim=0)
        torch.testing.assert_close(given.embeddings[place], mean)
        firsts[index] = given.embeddings[place, 0]
    order = sorted(range(SIZE), key=firsts.get)
    full = sorted(sorted(order[start : start + BATCH]) for start in (0, 8, 16))
    assert sorted(map(sorted, epochs[1][:3])) == full
    assert sorted(epochs[1][3]) == sorted(order[24:])


@pytest.mark.parametrize(
    "options", [{"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}]
)
def test_with_workers_the_batches_are_the_same(options):
    _, _, epochs, _ = fit(WALK, loader(shuffle=False))
    assert fit(WALK, loader(shuffle=False, **options))[2] == epochs


@pytest.mark.parametrize(
    ("compose", "sampler"),
    [
        (WALK, "in_batch()"),
        ("clustered(num_neighbors=3)", "memory_bank()"),
        ("balanced(by='kinds')", "in_batch()"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(compose, sampler, tmp_path):
    def data():
        dataset = hosts.Pairs(SIZE)
        dataset.kinds = [index % 3 for index in range(SIZE)]
        return loader(dataset)

    class Saving(hosts.lightning().Callback):
        def on_train_epoch_end(self, trainer, *_):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(path)

    path = str(tmp_path / "half.ckpt")
    weights, control, epochs, _ = fit(compose, data(), 4, sampler=sampler, extra=[Saving()])
    resumed, again, later, _ = fit(compose, data(), 4, path, sampler, seed=123)
    assert later == epochs[2:]
    assert torch.equal(resumed, weights)
    assert same_state(again.state_dict(), control.state_dict())
    state = control.state_dict()["composed"]
    torch.save(state, tmp_path / "state.pt")
    assert same_state(torch.load(tmp_path / "state.pt", weights_only=True), state)
    without = torch.load(path, weights_only=False)
    del without["callbacks"]["negplug"]["composed"]
    torch.save(without, path)
    with pytest.raises(ValueError, match="was written with no compose, this run has compose="):
        fit(compose, data(), 4, path, sampler)


def test_a_checkpoint_that_another_callback_saves_first(tmp_path):
    """At the end of an epoch, before negplug's own hook: solo-learn's checkpointer does so."""

    class Saving(hosts.lightning().Callback):
        def on_train_epoch_end(self, trainer, *_):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(path)

    path = str(tmp_path / "first.ckpt")
    hosts.lightning().seed_everything(0)
    seen, control = Seen(), hosts.negative_control()("in_batch()", compose=WALK)
    trainer = hosts.trainer(callbacks=[Saving(), control, seen], max_epochs=2)
    trainer.fit(hosts.recipe(), loader())
    assert fit(WALK, epochs=2, resume=path, seed=5)[2] == seen.epochs[1:]


def test_the_loader_is_given_back_and_a_second_fit_begins_anew():
    data = loader()
    own = data.batch_sampler
    control = fit(WALK, data, epochs=2)[1]
    assert data.batch_sampler is own
    assert own.sampler is data.sampler
    assert len(list(data)) == 4
    assert control.state_dict()["composed"]["epoch"] == 2


def test_validation_on_the_same_loader_sees_its_own_batches():
    data, validated = loader(shuffle=False), []

    class Validated(hosts.lightning().Callback):
        def on_validation_batch_start(self, trainer, module, batch, *_):
            first = batch[2] if isinstance(batch[2], (list, tuple)) else batch[0].tolist()
            validated.append(int(str(first[0]).split(".")[0]))

    hosts.lightning().seed_everything(0)
    module = hosts.recipe()
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: None
    if hasattr(module, "validation_epoch_end"):
        module.validation_epoch_end = lambda outputs: None
    control = hosts.negative_control()("in_batch()", compose=WALK)
    options = {"num_sanity_val_steps": 0, "max_epochs": 3, "callbacks": [control, Validated()]}
    hosts.trainer(**options).fit(module, data, data)
    assert validated == [0, 8, 16, 24] * 3


class Endless(IterableDataset):
    def __iter__(self):
        return iter(hosts.Pairs(8))


class Own(BatchSampler):
    pass


REFUSED = {
    "an IterableDataset": lambda: DataLoader(Endless(), batch_size=4),
    "Own makes batches by rules of its own": lambda: DataLoader(
        hosts.Pairs(24), batch_sampler=Own(SequentialSampler(range(24)), 8, False)
    ),
    "its sampler WeightedRandomSampler chooses samples": lambda: loader(
        shuffle=False, sampler=WeightedRandomSampler([1.0] * SIZE, SIZE)
    ),
    "its RandomSampler draws 10 of 26 samples": lambda: loader(
        shuffle=False, sampler=RandomSampler(range(SIZE), num_samples=10)
    ),
    "draws 26 of 26 samples, or some of them twice": lambda: loader(
        shuffle=False, sampler=RandomSampler(range(SIZE), replacement=True)
    ),
    "a collection of loaders": lambda: [loader(), loader()],
    "batch_size=None": lambda: loader(shuffle=False, batch_size=None),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_loader_that_cannot_be_composed_is_refused_in_one_sentence(reason):
    for compose in (WALK, "balanced(by='kinds')"):
        with pytest.raises(ValueError, match=f"cannot compose the batches, because .*{reason}"):
            fit(compose, REFUSED[reason](), epochs=1)


def test_other_refusals():
    with pytest.raises(ValueError, match="overfit_batches trains on the same batches"):
        fit(WALK, overfit_batches=2)
    with pytest.raises(ValueError, match="has no column 'kinds'"):
        fit("balanced(by='kinds')")
    two = [hosts.negative_control()("in_batch()", target=t, compose=WALK) for t in ("a", "b")]
    with pytest.raises(ValueError, match="two NegativeControl callbacks of a Trainer have compose"):
        hosts.trainer(callbacks=two).fit(hosts.recipe(), loader())
    with pytest.raises(ValueError, match="unknown composer 'uniform'"):
        hosts.negative_control()("in_batch()", compose="uniform()")


def test_the_samples_of_a_subset_are_those_of_the_subset():
    places = [20, 3, 7, 11, 5, 16, 2, 9, 1, 14]
    if hosts.solo_generation():
        pytest.skip("its batches number the parent's samples themselves")
    _, _, epochs, _ = fit(WALK, loader(Subset(hosts.Pairs(SIZE), places), batch_size=4))
    for batches in epochs:
        assert sorted(flat(batches)) == sorted(places)


def test_a_class_in_each_batch(tmp_path):
    kinds = np.arange(SIZE) % 2
    np.save(tmp_path / "kinds.npy", kinds)
    _, _, epochs, _ = fit(f"balanced(by={str(tmp_path / 'kinds.npy')!r})", epochs=2)
    for batches in epochs:  # from the first epoch on
        assert sorted(flat(batches)) == list(range(SIZE))
        for batch in batches[:3]:
            assert abs(int(kinds[batch].sum()) - 4) <= 1


def test_a_damaged_state_is_refused():
    composition = Composition(make_composer(WALK))
    bank = EmbeddingBank(3)
    bank.write(Rows(torch.eye(3), torch.arange(3), torch.arange(3)))
    good = composition.state_dict() | {"bank": bank.state_dict()}
    composition.load_state_dict(good)
    assert same_state(composition.state_dict(), good)
    for damaged in (
        good | {"seed": "7"},
        good | {"epoch": -1},
        good | {"bank": 5},
        good | {"bank": good["bank"] | {"stamps": torch.zeros(2, dtype=torch.int64)}},
        good | {"bank": good["bank"] | {"rows": torch.zeros(3)}},
        good | {"bank": good["bank"] | {"written": 1}},
    ):
        with pytest.raises(ValueError, match=r"the checkpoint's .* of the composer .*damaged"):
            composition.load_state_dict(damaged)


def test_of_a_sample_that_is_in_a_batch_twice_the_later_row_counts():
    bank, rows = EmbeddingBank(4), torch.eye(4)
    indexes = torch.tensor([2, 0, 2, 1])
    bank.write(Rows(rows, indexes, indexes))
    assert torch.equal(
        bank.unit_rows(torch.arange(4)), rows[[1, 3, 2, 2]] * torch.tensor([[1], [1], [1], [0]])
    )
    bank.write(Rows(-rows[:1], indexes[:1], indexes[:1]))
    assert torch.equal(bank.unit_rows(torch.tensor([2]))[0], -rows[0])
    bank.write(Rows(rows[:1] * torch.nan, indexes[:1], indexes[:1]))
    assert not bank.unit_rows(torch.tensor([2])).any()


ENVIRONMENT = f"""
import sys
sys.path.insert(0, {str(hosts.__file__.rpartition("/")[0])!r})
import hosts
from composing import Seen, loader

seen = Seen()
hosts.lightning().seed_everything(0)
hosts.trainer(callbacks=[seen], max_epochs=2).fit(hosts.recipe(), loader())
print("batches", seen.epochs[1])
"""


def test_an_unmodified_recipe_is_composed(tmp_path):
    """The command line sets the variable, and the environment's way in reads it."""
    (tmp_path / "recipe.py").write_text(ENVIRONMENT)
    run = ["-m", "negplug", "run", "--sampler", "in_batch()", "--compose", WALK, "recipe.py"]
    done = armed.run(tmp_path, *run)
    assert done.returncode == 0, done.stderr
    assert f"batches {fit(WALK, epochs=2)[2][1]}" in done.stdout
