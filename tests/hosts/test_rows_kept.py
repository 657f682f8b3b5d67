"""Rows that move behind the collate function: who keeps things by sample refuses them."""

from __future__ import annotations

import warnings

import hosts
import pytest
import torch
import validating
from moving_rows import KEEPS, MOVES, ORDER, fit, with_views

import negplug

pytestmark = pytest.mark.filterwarnings("ignore")
BY_LABELS = 'filtered(by="labels")'


@pytest.mark.parametrize(
    ("name", "sampler"),
    [(name, "memory_bank()") for name in MOVES]
    + [("shuffled", BY_LABELS), ("halves", "stratified(num_negatives=2)")],
)
def test_rows_that_a_training_step_moves(name, sampler):
    with pytest.raises(ValueError, match=r"training_step moves, .* \(row \d of .* is sample \d\)"):
        fit(MOVES[name], sampler=sampler)


@pytest.mark.parametrize("sampler", ["memory_bank()", BY_LABELS])
@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_rows_that_a_hook_moves(hook, sampler):
    with pytest.raises(ValueError, match=f"(but|:) {hook} moves, drops"):
        fit(MOVES["shuffled"], hook, sampler)
    fit(KEEPS["noise"], hook, sampler)


def test_a_recipe_that_is_compiled_as_a_whole_is_not_compiled_anew():
    if hosts.solo_generation() == "1.0.2":
        pytest.skip("torch cannot compile solo-learn 1.0.2's step as a whole, treated or not")
    made = {"in_batch()": 0, "memory_bank()": 0, BY_LABELS: 0}
    for sampler in made:
        torch.compiler.reset()

        def count(graph, _, sampler=sampler):
            made[sampler] += 1
            return graph.forward

        control = hosts.negative_control()(sampler)
        loader = torch.utils.data.DataLoader(hosts.Pairs(32), batch_size=8)
        trainer = hosts.trainer(callbacks=[control])
        trainer.fit(torch.compile(hosts.recipe(), backend=count), loader)
        assert trainer.global_step == 4
    torch.compiler.reset()
    assert len(set(made.values())) == 1, made


class Watching(negplug.NegativeSampler):
    """Keeps the labels of each step's anchors; their other views follow."""

    wants_labels = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def sample(self, batch):
        self.seen.append(batch.anchors.labels.cpu())
        return negplug.make_sampler("in_batch()").sample(batch)


def seen_labels(control, size=8):
    (loss,) = control.injection.losses.values()
    return torch.stack(loss.loss.sampler.seen)[:, :size]


@pytest.mark.parametrize("order", [ORDER, ORDER[:6]])
def test_rows_that_a_hook_moves_with_their_labels(order):
    """Labels are read off the batch behind the hook."""

    def on_after_batch_transfer(self, batch, *_):
        moved = [part[order] if isinstance(part, torch.Tensor) else part for part in batch]
        return with_views(moved, lambda x: x[order])

    module, control = hosts.recipe(), hosts.negative_control()(Watching())
    hook = {"on_after_batch_transfer": on_after_batch_transfer}
    module.__class__ = type("Hooked", (type(module),), hook)
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())
    assert torch.equal(seen_labels(control, len(order)), (order % 4).repeat(3, 1))


def test_labels_of_the_recipes_own_are_right():
    _, control = fit(MOVES["shuffled"], sampler=Watching(), told=lambda _: {"labels": ORDER % 4})
    assert torch.equal(seen_labels(control), (ORDER % 4).repeat(3, 1))


def test_rows_of_samplers_that_use_no_labels_may_move():
    fit(MOVES["shuffled"], sampler="in_batch()")


@pytest.mark.parametrize("name", KEEPS)
def test_rows_that_are_kept_are_left_alone(name, caplog):
    module, control = fit(KEEPS[name])
    assert "rows" not in caplog.text
    (loss,) = control.injection.losses.values()
    assert loss.loss.sampler.count == 24
    assert loss.looks is None
    assert "transfer" not in " ".join(vars(module))
    _, control = fit(KEEPS[name], sampler=Watching())
    assert torch.equal(seen_labels(control), (torch.arange(24) % 4).view(3, 8))


def cut_and_paste(x):
    x = x.clone()
    x[:, :, :2, :2] = x[ORDER][:, :, :2, :2]
    return x


MIXES = {
    "mixup": lambda x: 0.7 * x + 0.3 * x[ORDER],
    "CutMix": cut_and_paste,
    "chosen": lambda x: torch.where(torch.rand(x.shape) < 0.5, x, x[ORDER]),
    "weighted": lambda x: (torch.full((8, 8), 1 / 8) @ x.flatten(1)).view_as(x),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_rows_that_a_training_step_mixes(mix):
    with pytest.raises(ValueError, match=r"or mixes rows .*row 0 of .* is made of several samples"):
        fit(mix)


@pytest.mark.parametrize("sampler", ["memory_bank()", BY_LABELS])
@pytest.mark.parametrize("of_the_module", [False, True])
def test_rows_that_are_moved_as_a_batch_begins(of_the_module, sampler):
    class Turning(hosts.lightning().Callback):
        def on_train_batch_start(self, trainer, module, batch, *_):
            turn(batch)

    def turn(batch, *_):
        views = next(part for part in batch if isinstance(part, list))
        views[:] = [view.flip(0) for view in views]

    module, control = hosts.recipe(), hosts.negative_control()(sampler)
    if of_the_module:
        module.on_train_batch_start = turn
    callbacks = [control] if of_the_module else [control, Turning()]
    whose = "" if of_the_module else r"Turning\."
    with pytest.raises(ValueError, match=rf"(but|:) {whose}on_train_batch_start moves, drops"):
        hosts.trainer(callbacks=callbacks).fit(module, hosts.loader())


class Samples:
    """A batch of the recipe's own kind."""

    def __init__(self, samples):
        self.parts = torch.utils.data.default_collate(samples)


def test_rows_of_a_batch_that_is_an_object():
    if hosts.solo_generation():
        pytest.skip("its batches are lists")
    module, control = hosts.recipe(), hosts.negative_control()("memory_bank()")
    step = module.training_step
    module.training_step = lambda batch, batch_idx: step(
        with_views(batch.parts, MOVES["flipped"]), batch_idx
    )
    loader = torch.utils.data.DataLoader(hosts.Pairs(16), batch_size=8, collate_fn=Samples)
    with pytest.raises(ValueError, match="training_step moves, drops"):
        hosts.trainer(callbacks=[control]).fit(module, loader)


@pytest.mark.parametrize("moves", [True, False])
def test_samples_that_training_step_stacks(moves):
    if hosts.solo_generation():
        pytest.skip("its batches are stacked")
    module, control = hosts.recipe(), hosts.negative_control()("memory_bank()")
    step = module.training_step
    module.training_step = lambda batch, batch_idx: step(
        torch.utils.data.default_collate(batch[::-1] if moves else batch), batch_idx
    )
    loader = torch.utils.data.DataLoader(hosts.Pairs(16), batch_size=8, collate_fn=list)
    fit_on = hosts.trainer(callbacks=[control]).fit
    if not moves:
        fit_on(module, loader)
        return
    with pytest.raises(ValueError, match=r"training_step moves, .* is sample 7"):
        fit_on(module, loader)


def test_rows_that_are_mixed_from_an_epoch_on():
    module, control = hosts.recipe(), hosts.negative_control()("memory_bank()")
    step, epochs = module.training_step, []

    def training_step(batch, batch_idx):
        epochs.append(module.current_epoch)
        mixed = with_views(batch, MIXES["mixup"]) if module.current_epoch == 2 else batch
        return step(mixed, batch_idx)

    module.training_step = training_step
    with pytest.raises(ValueError, match="or mixes rows of a batch"):
        hosts.trainer(callbacks=[control], max_epochs=4).fit(module, hosts.loader())
    assert epochs == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(("sampler", "what"), [("memory_bank()", "indexes"), (BY_LABELS, "labels")])
def test_rows_that_leave_no_trace_are_warned_of(sampler, what):
    def by_numpy(x):
        return torch.from_numpy(x.numpy()[::-1].copy())

    message = rf"the rows that .* gets cannot be followed .* hand {what} over .*\({what}=…\)"
    with pytest.warns(UserWarning, match=message) as told:
        fit(by_numpy, sampler=sampler)
    assert sum("cannot be followed" in str(each.message) for each in told) == 1


def test_validation_is_not_followed():
    module = validating.recipe()
    control = hosts.negative_control()("memory_bank()")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = hosts.trainer(callbacks=[control], max_epochs=2, val_check_interval=1)
        trainer.fit(module, hosts.loader(), validating.loader())
    assert not [each for each in told if "cannot be followed" in str(each.message)]


def changed(change):
    """A collate function that leaves labels and names in order, and adds noise to images."""

    def collate(samples):
        batch = torch.utils.data.default_collate(samples)
        return with_views(batch, lambda x: change(x) + 1e-3 * torch.rand_like(x))

    return collate


@pytest.mark.parametrize("name", [*MOVES, "mixed"])
@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_a_collate_function_moves_and_changes(name, workers):
    if hosts.solo_generation():
        pytest.skip("its batches hold the indexes themselves")
    if workers and name != "flipped":
        pytest.skip("one process of a worker is enough")
    change = MOVES.get(name, lambda x: x.roll(1, 0).mul(0.4).add(x.mul(0.6)))
    loader = torch.utils.data.DataLoader(
        hosts.Pairs(16), batch_size=8, collate_fn=changed(change), num_workers=workers
    )
    control = hosts.negative_control()("memory_bank()")
    what = "mixes samples" if name == "mixed" else "drops, moves or repeats samples"
    with pytest.raises(ValueError, match=f"the collate function .* {what}"):
        hosts.trainer(callbacks=[control]).fit(hosts.recipe(), loader)


def test_images_that_a_collate_function_changes_in_their_order():
    loader = torch.utils.data.DataLoader(
        hosts.Pairs(16), batch_size=8, collate_fn=changed(KEEPS["other axes"])
    )
    control = hosts.negative_control()("memory_bank()")
    hosts.trainer(callbacks=[control]).fit(hosts.recipe(), loader)
    (loss,) = control.injection.losses.values()
    assert loss.loss.sampler.count == 16


def test_indexes_of_the_recipes_own_are_right():
    if hosts.solo_generation():
        pytest.skip("its batches hold the indexes themselves")
    fit(MOVES["shuffled"], told=lambda step: {"indexes": 8 * step + ORDER})


def test_a_batch_of_views_one_after_another_is_no_batch_of_other_samples():
    """Packed by the collate function: twice as many rows as there are samples."""
    if hosts.solo_generation():
        pytest.skip("its batches are not packed")
    module = hosts.recipe()
    step = module.training_step

    def training_step(batch, batch_idx):
        packed, batch = batch
        views = iter(packed.chunk(2))
        return step(with_views(batch, lambda _: next(views)), batch_idx)

    def pack(samples):
        batch = torch.utils.data.default_collate(samples)
        return torch.cat(next(part for part in batch if isinstance(part, list))), batch

    module.training_step = training_step
    loader = torch.utils.data.DataLoader(hosts.Pairs(16), batch_size=8, collate_fn=pack)
    control = hosts.negative_control()("memory_bank()")
    hosts.trainer(callbacks=[control]).fit(module, loader)
    (loss,) = control.injection.losses.values()
    assert loss.loss.sampler.count == 16
