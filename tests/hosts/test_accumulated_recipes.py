"""Recipes whose steps are split into micro-batches, on the installed host."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
from contextlib import nullcontext

import hosts
import pytest
import resumable
import torch
from encoding import by_the_sample_alone, every_recipe, is_first_lightning, spelled, with_batchnorm
from resumable import same_state
from torch.utils.data import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore")

COUNT = 4
SAMPLERS = [
    "hierarchical(uniform(num_negatives=4), queue(size=40), memory_bank())",
    "emc2(out_of_batch='recompute', burn_in=0)",
]
REFUSED = {"crops": "pos_mask, which relates the rows", "All4One": "no mean over rows"}


def fit(sampler="in_batch()", accumulate=1, module=None, views=2, callbacks=(), size=24, **kwargs):
    hosts.lightning().seed_everything(0)
    module = hosts.recipe() if module is None else module()
    control = hosts.negative_control()(sampler, accumulate=accumulate)
    trainer = hosts.trainer(callbacks=[control, *callbacks], **kwargs)
    trainer.fit(module, DataLoader(hosts.Pairs(size, views), 8, drop_last=False))
    return module, trainer, control


def double():
    return {"precision": 64 if is_first_lightning() else "64-true"}


def logged(trainer):
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("name", ["recipe", *every_recipe()])
def test_every_recipe_trains_as_on_the_whole_batch(name):
    """In float64, so that nothing but the order of sums is left; its buffers and logs too."""

    def module():
        return by_the_sample_alone({"recipe": hosts.recipe, **every_recipe()}[name]())

    kwargs = {"views": 4 if name == "crops" else 2, **double()}
    whole = fit(module=module, **kwargs)
    if name in REFUSED and (name != "crops" or hosts.solo_generation() == "1.0.2"):
        with pytest.raises(ValueError, match=REFUSED[name]):
            fit(accumulate=COUNT, module=module, **kwargs)
        return
    split = fit(accumulate=COUNT, module=module, **kwargs)
    state, wanted = split[0].state_dict(), whole[0].state_dict()
    for key, value in wanted.items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-9, msg=key)
    assert logged(split[1]) == pytest.approx(logged(whole[1]), rel=1e-7)
    assert split[1].global_step == whole[1].global_step == 3
    assert "training_step" not in vars(split[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_twenty_steps_in_single_precision(sampler):
    whole, split = (fit(sampler, count, max_steps=20, max_epochs=-1) for count in (1, COUNT))
    torch.testing.assert_close(*map(hosts.parameters, (split[0], whole[0])), rtol=1e-3, atol=1e-4)
    assert (hosts.parameters(whole[0]) - hosts.parameters(hosts.recipe())).norm() > 0.01
    calls = [[t.calls for t in control.injection.losses.values()] for *_, control in (whole, split)]
    assert calls[0] == calls[1]


def scaling():
    """float16, whose losses a ``GradScaler`` scales."""
    plugins = importlib.import_module(f"{hosts.framework()}.plugins")
    kind = getattr(plugins, "MixedPrecision", None) or plugins.MixedPrecisionPlugin
    return {"plugins": [kind(spelled("16-mixed"), "cpu", torch.amp.GradScaler("cpu"))]}


@pytest.mark.parametrize("precision", [lambda: {"precision": spelled("bf16-mixed")}, scaling])
def test_in_half_precision(precision):
    start = hosts.parameters(fit(max_steps=0)[0])
    whole, split = (
        hosts.parameters(fit("in_batch()", n, max_steps=2, **precision())[0]) for n in (1, COUNT)
    )
    assert (whole - start).norm() > 0
    assert (split - whole).norm() < 0.02 * (whole - start).norm()


def test_schedules_and_added_up_gradients_count_logical_batches():
    """The last batch is ragged; Lightning adds up two logical batches for a step."""

    class Recipe(type(hosts.recipe())):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def module():
        recipe = hosts.recipe()
        recipe.__class__ = Recipe
        return recipe

    kwargs = {"module": module, "size": 29, "max_epochs": 4, "accumulate_grad_batches": 2}
    whole, split = (fit("uniform(num_negatives=3)", count, **kwargs) for count in (1, COUNT))
    assert split[1].global_step == whole[1].global_step == 8
    rates = [t.optimizers[0].param_groups[0]["lr"] for _, t, _ in (whole, split)]
    assert rates == [0.05 / 16] * 2
    torch.testing.assert_close(*map(hosts.parameters, (split[0], whole[0])), rtol=1e-4, atol=1e-5)


def test_batchnorm_and_dropout_train_and_the_first_is_said(caplog):
    with caplog.at_level(logging.WARNING, "negplug"):
        module, *_ = fit("queue(size=40)", COUNT, with_batchnorm)
    said = [record.getMessage() for record in caplog.records if "BatchNorm" in record.getMessage()]
    assert len(said) == 1
    (norm,) = (part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert norm.num_batches_tracked == 3 * COUNT * 2  # views
    assert hosts.parameters(module).isfinite().all()


def test_a_copy_of_the_model_trains_by_itself():
    copies = []

    class Copying(hosts.lightning().Callback):
        def on_train_batch_end(self, trainer, module, *_):
            # As Lightning 1.9 copies a model; 2 always leaves the Trainer out.
            prevent = getattr(module, "_prevent_trainer_and_dataloaders_deepcopy", nullcontext)
            with prevent():
                copied = copy.deepcopy(module)
            step = vars(copied)["training_step"]
            copies.append((copied, inspect.unwrap(step).__self__))

    fit("queue(size=40)", COUNT, callbacks=[Copying()])
    assert len(copies) == 3
    assert all(step is copied for copied, step in copies)


class Half(hosts.lightning().Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


def test_resumed_equals_uninterrupted_to_the_last_bit(tmp_path, monkeypatch):
    """With dropout, whose draws each step seeds anew."""
    control = hosts.negative_control()
    monkeypatch.setattr(hosts, "negative_control", lambda: lambda e: control(e, accumulate=COUNT))
    recipe = hosts.recipe
    monkeypatch.setattr(hosts, "recipe", lambda: _dropping(recipe()))
    sampler = "hierarchical(uniform(num_negatives=4), queue(size=40), memory_bank())"
    wanted, one, _ = resumable.fit(sampler, 4, callbacks=[Half(tmp_path / "half.ckpt")])
    found, two, _ = resumable.fit(sampler, 4, seed=9, resume=tmp_path / "half.ckpt")
    assert torch.equal(found, wanted)
    assert same_state(two.state_dict(), one.state_dict())


def _dropping(module):
    class Recipe(type(module)):
        def on_train_batch_start(self, *_):
            torch.manual_seed(self.global_step)

        def training_step(self, batch, batch_idx):
            views = batch[0 if hasattr(self, "criterion") else 1]
            views[:] = [torch.nn.functional.dropout(view, 0.2) for view in list(views)]
            return super().training_step(batch, batch_idx)

    module.__class__ = Recipe
    return module


def test_a_recipe_that_optimises_by_hand_is_refused():
    def module():
        recipe = hosts.recipe()
        recipe.automatic_optimization = False
        return recipe

    with pytest.raises(ValueError, match=r"optimises by hand, .* call negplug.accumulated\(\) in"):
        fit(accumulate=2, module=module)


def test_bad_numbers_of_micro_batches_are_refused():
    control = hosts.negative_control()
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        control("in_batch()", accumulate=0)
    with pytest.raises(TypeError, match="accumulate must be an integer, got '8'"):
        control("in_batch()", accumulate="8")
    others = control("in_batch()", target="other", accumulate=2)
    with pytest.raises(ValueError, match="accumulate=1 and accumulate=2; a step can be split in"):
        hosts.trainer(callbacks=[control("in_batch()", target=hosts.site_name()), others]).fit(
            hosts.recipe(), hosts.loader()
        )
