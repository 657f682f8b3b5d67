"""Rows that move behind the collate function: who keeps things by sample refuses them."""

from __future__ import annotations

import warnings

import hosts
import pytest
import torch
import validating
from torch import nn

from negplug.hosts.trainer.indexes.row_marks import MIXED, RowMarks

pytestmark = pytest.mark.filterwarnings("ignore")
ORDER = torch.tensor([3, 1, 4, 7, 5, 0, 2, 6])


def with_views(batch, change):
    """The batch with other images."""
    return [[change(v) for v in part] if isinstance(part, list) else part for part in batch]


def fit(change, where="training_step", sampler="memory_bank()", told=None):
    module = hosts.recipe()
    control = hosts.negative_control()(sampler)
    if where == "training_step":
        step = module.training_step

        def training_step(batch, batch_idx):
            if told is not None:
                control.injection.provide(indexes=told(batch_idx))
            return step(with_views(batch, change), batch_idx)

        module.training_step = training_step
    else:
        hook = {where: lambda self, batch, *_: with_views(batch, change)}
        module.__class__ = type("Hooked", (type(module),), hook)
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())
    return module, control


MOVES = {
    "shuffled": lambda x: x[ORDER],
    "flipped": lambda x: x.flip(0),
    "rolled": lambda x: torch.roll(x, 1, 0),
    "halves": lambda x: torch.cat([x[:4], x[:4]]),
    "selected": lambda x: x.index_select(0, ORDER).contiguous() * 2,
    "chunks": lambda x: torch.cat(x.chunk(4)[::-1]),
    "gathered": lambda x: x.gather(0, ORDER.view(-1, 1, 1, 1).expand_as(x)),
    "written": lambda x: x.clone().index_copy_(0, ORDER, x),
}
KEEPS = {
    "there and back": lambda x: x[ORDER][ORDER.argsort()],
    "other axes": lambda x: x.flip(3).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "two batches": lambda x: torch.cat([x, x + 0.1]).chunk(2)[0],
    "stacked": lambda x: torch.stack([x, x]).flatten(0, 1).view(2, *x.shape)[1],
    "added up": lambda x: torch.zeros_like(x).index_add_(0, torch.arange(8), x),
    "noise": lambda x: torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x + 1e-3 * torch.rand(()), x),
}


@pytest.mark.parametrize("name", MOVES)
def test_rows_that_a_training_step_moves(name):
    with pytest.raises(ValueError, match=r"training_step moves, .* \(row \d of .* is sample \d\)"):
        fit(MOVES[name])


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_rows_that_a_hook_moves(hook):
    with pytest.raises(ValueError, match=f"(but|:) {hook} moves, drops"):
        fit(MOVES["shuffled"], hook)
    fit(KEEPS["noise"], hook)


@pytest.mark.parametrize("name", KEEPS)
def test_rows_that_are_kept_are_left_alone(name, caplog):
    module, control = fit(KEEPS[name])
    assert "rows" not in caplog.text
    (loss,) = control.injection.losses.values()
    assert loss.loss.sampler.count == 24
    assert loss.looks is None
    assert "transfer" not in " ".join(vars(module))


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


@pytest.mark.parametrize("of_the_module", [False, True])
def test_rows_that_are_moved_as_a_batch_begins(of_the_module):
    class Turning(hosts.lightning().Callback):
        def on_train_batch_start(self, trainer, module, batch, *_):
            turn(batch)

    def turn(batch, *_):
        views = next(part for part in batch if isinstance(part, list))
        views[:] = [view.flip(0) for view in views]

    module, control = hosts.recipe(), hosts.negative_control()("memory_bank()")
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


def test_rows_that_leave_no_trace_are_warned_of():
    def by_numpy(x):
        return torch.from_numpy(x.numpy()[::-1].copy())

    with pytest.warns(UserWarning, match="the rows that .* gets cannot be followed") as told:
        fit(by_numpy)
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
    fit(MOVES["shuffled"], told=lambda step: 8 * step + ORDER)


def test_marks_go_the_way_of_rows():
    marks, x = RowMarks(), torch.randn(6, 4)
    marks.begin({"x": [x]}, 6)
    filled = torch.empty(6, 4)
    layer = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    with marks:
        z = layer(x)
        moved = z[torch.tensor([5, 0, 1])]
        written = x.clone()
        written[1:3] = x[4:]
        views = torch.stack([z, z.flip(0)], dim=1).flatten(0, 1)
        product = z @ z.T
        mixed = z + z.roll(2, 0)
        thrice = z.repeat_interleave(3, dim=0)
        parts = z.split([2, 4])
        twice = z.expand(2, 6, 6).reshape(12, 6)
        torch.cat([x[3:], x[:3]], out=filled)
        turned = z.unsqueeze(0).transpose(0, 1).squeeze(1)
        lost = torch.from_numpy(z.detach().numpy())
        ordered, _ = x.sort(dim=0, descending=True)
        top, _ = x[:, 0].topk(3)
        within, _ = x.sort(dim=1)
        weighted = torch.eye(6).flip(0) @ x
        projected = (torch.ones(2, 4) @ x.T).T
        attended = (x @ x.T).softmax(1) @ x
        centres = torch.ones(3, 6) @ x
        assigned = x.clone()
        assigned.data = x.flip(0)
        summed = x.clone().scatter_add_(0, torch.zeros(6, 4, dtype=torch.int64), x)
    assert marks.of(z).tolist() == marks.of(product).tolist() == list(range(6))
    assert marks.of(moved).tolist() == [5, 0, 1]
    assert marks.of(written).tolist() == [0, 4, 5, 3, 4, 5]
    assert marks.of(views).tolist() == [0, 5, 1, 4, 2, 3, 3, 2, 4, 1, 5, 0]
    assert set(marks.of(mixed).tolist()) == {MIXED}
    assert marks.of(thrice).tolist() == [n // 3 for n in range(18)]
    assert [marks.of(part).tolist() for part in parts] == [[0, 1], [2, 3, 4, 5]]
    assert marks.of(twice).tolist() == [*range(6), *range(6)]
    assert marks.of(filled).tolist() == [3, 4, 5, 0, 1, 2]
    assert torch.equal(filled, torch.cat([x[3:], x[:3]]))
    assert marks.of(turned).tolist() == list(range(6))
    assert torch.equal(marks.of(ordered), x.argsort(dim=0, descending=True).int())
    assert torch.equal(marks.of(top), x[:, 0].argsort(descending=True)[:3].int())
    assert marks.of(within).tolist() == list(range(6))
    assert set(marks.of(weighted).tolist()) == {MIXED}
    assert marks.of(assigned).tolist() == [5, 4, 3, 2, 1, 0]
    assert marks.of(projected).tolist() == marks.of(attended).tolist() == list(range(6))
    assert marks.of(lost) is marks.of(summed) is marks.of(centres) is None


def test_of_rows_in_the_form_of_others_nothing_is_said():
    """MoCo shuffles a batch among ranks; a collective fills its buffers where nobody sees it."""
    marks, x, order = RowMarks(), torch.randn(4, 6), torch.tensor([2, 0, 3, 1])
    marks.begin([x], 4)
    with marks:
        buffers = [torch.empty_like(x) for _ in range(2)]
        for buffer in buffers:
            buffer.numpy()[:] = x.numpy()
        gathered = torch.cat(buffers)[torch.tensor([6, 1, 3, 4])]
        noisy = x + torch.randn_like(x)[order]
        masked = x.clone()
        masked[:, 2:4] = x.new_zeros(4, 2)[order]
        moved = torch.empty_like(x)
        moved[order] = x
        mixed = x.clone()
        mixed[..., :3] = x[order][..., :3]
    assert marks.of(gathered) is marks.of(moved) is None
    assert marks.of(noisy).tolist() == marks.of(masked).tolist() == list(range(4))
    assert set(marks.of(mixed).tolist()) == {MIXED}


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
