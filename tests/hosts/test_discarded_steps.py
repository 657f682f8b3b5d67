"""Batches of a Trainer without a step of its optimizer: skipped by a scaler, or by a guard."""

from __future__ import annotations

import importlib

import hosts
import pytest
import torch
from device import DEVICE
from fitted import fit

from negplug import inject, make_sampler
from negplug.loss import put_aside

pytestmark = pytest.mark.filterwarnings("ignore")
BATCHES = 5


def trained(module, **settings):
    """The steps that were drawn for, the queue's count, the weights, and the Trainer."""
    sampler, drawn = make_sampler("queue(size=256)"), []

    def look(_, given):
        if given[0].context.training:
            drawn.append(given[0].context.draws.step)

    sampler.register_forward_pre_hook(look)
    module, callback, trainer = fit(sampler, size=8 * BATCHES, module=module, **settings)
    (loss,) = callback.injection.losses.values()
    return drawn, loss.loss.sampler.count, trainer


def recipe():
    hosts.lightning().seed_everything(0)
    return hosts.recipe()


@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision(fused):
    plugins = importlib.import_module(f"{hosts.framework()}.plugins.precision")
    old = hosts.lightning().__version__.startswith("1.")
    kind = plugins.MixedPrecisionPlugin if old else plugins.MixedPrecision
    # The gradients overflow in half precision under the first few scales.
    scaler = torch.amp.GradScaler(DEVICE.type, 2.0**28, 2.0, 2.0**-12, growth_interval=1000)
    module, scales = recipe(), []
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, fused=fused)
    module.configure_optimizers = lambda: optimizer

    class Scales(hosts.lightning().Callback):
        def on_train_batch_end(self, *_):
            scales.append(scaler.get_scale())

    control = hosts.negative_control()("queue(size=256)")
    precision = kind(16 if old else "16-mixed", DEVICE.type, scaler)
    trainer = hosts.trainer(plugins=[precision], callbacks=[control, Scales()])
    trainer.fit(module, hosts.loader(8 * BATCHES))
    taken = BATCHES - sum(a > b for a, b in zip([2.0**28, *scales], scales, strict=False))
    assert 0 < taken < BATCHES
    (loss,) = control.injection.losses.values()
    state = loss.loss.state_dict()
    assert state["_extra_state"]["step"] == taken
    assert state["sampler._extra_state"]["values"]["count"] == 16 * taken


def test_a_manual_optimisation_with_a_scaler():
    module = recipe()
    module.automatic_optimization = False
    scaler, inner = torch.amp.GradScaler(DEVICE.type, init_scale=4.0), module.training_step

    def training_step(batch, batch_idx):
        optimizer, loss = module.optimizers(), inner(batch, batch_idx)
        optimizer.zero_grad()
        loss = loss["loss"] if isinstance(loss, dict) else loss
        module.manual_backward(scaler.scale(loss * (torch.inf if batch_idx in (0, 2) else 1.0)))
        scaler.step(optimizer.optimizer)
        scaler.update()

    module.training_step = training_step
    drawn, count, _ = trained(module)
    assert drawn == [0, 0, 1, 1, 2]
    assert count == 3 * 16


def test_the_two_passes_of_sam_without_a_closure_are_one_step(caplog, monkeypatch):
    """The first one's gradients are gone when the second begins, which is the step once more."""
    monkeypatch.setattr(put_aside, "_told", False)
    module = recipe()
    module.automatic_optimization = False
    inner = module.training_step

    def training_step(batch, batch_idx):
        optimizer = module.optimizers().optimizer
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in weights]
        for last in (False, True):
            loss = inner(batch, batch_idx)
            module.manual_backward(loss["loss"] if isinstance(loss, dict) else loss)
            with torch.no_grad():
                for parameter, was in zip(weights, before, strict=True):
                    if last:
                        parameter.data = was
                    elif parameter.grad is not None:
                        parameter.add_(0.01 * parameter.grad)
            if last:
                optimizer.step()
            optimizer.zero_grad()

    module.training_step = training_step
    drawn, count, _ = trained(module)
    assert drawn == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert count == BATCHES * 16
    assert "were dropped" not in caplog.text


def test_gradients_that_a_hook_of_the_recipe_throws_away():
    module = recipe()

    def on_after_backward():
        if module.trainer.fit_loop.batch_idx in (2, 3):
            module.zero_grad()

    module.on_after_backward = on_after_backward
    drawn, count, trainer = trained(module)
    assert drawn == [0, 1, 2, 2, 2]
    assert count == 3 * 16
    assert trainer.global_step == BATCHES


def test_what_was_said_of_a_skipped_batch_is_not_believed_of_the_next():
    criteria = pytest.importorskip("lightly.loss")
    criterion, layer = criteria.NTXentLoss(), torch.nn.Linear(6, 6).to(DEVICE)
    scaler, optimizer = (
        torch.amp.GradScaler(DEVICE.type),
        torch.optim.SGD(layer.parameters(), lr=0.1),
    )

    def step(factor):
        loss = criterion(*(layer(view) for view in torch.rand(2, 4, 6).to(DEVICE)))
        scaler.scale(factor * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    with inject(criterion, "memory_bank()") as handle:
        for factor in (1.0, torch.inf):
            handle.provide(indexes=torch.arange(4))
            step(factor)
            with pytest.raises(ValueError, match="indexes of the batch are unknown"):
                step(1.0)
