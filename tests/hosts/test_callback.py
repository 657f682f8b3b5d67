"""The Lightning callback on a real recipe of the installed host."""

from __future__ import annotations

from pathlib import Path

import hosts
import pytest
import torch
from fitted import fit

from negplug import ContrastiveLoss, inject

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("precision", "tolerance"), [(32, 1e-4), (64, 1e-11)])
def test_in_batch_trains_as_the_untouched_recipe_does(precision, tolerance):
    # 20 steps; equal within rounding, far from where they started.
    untouched, _, _ = fit(size=160, max_steps=20, precision=precision)
    treated, callback, _ = fit("in_batch()", size=160, max_steps=20, precision=precision)
    hosts.lightning().seed_everything(0)
    start = hosts.parameters(hosts.recipe())
    moved = (hosts.parameters(untouched) - start).norm()
    assert callback.injection.losses[hosts.site_name()].calls == 20
    apart = (hosts.parameters(treated) - hosts.parameters(untouched)).norm()
    assert apart < tolerance * moved


def test_few_negatives_train_differently_from_the_same_start_on_the_same_batches():
    seen = {}

    def record(name, sampler):
        hosts.lightning().seed_everything(0)
        module = hosts.recipe()
        seen[name] = [hosts.parameters(module)]
        inner = module.training_step

        def training_step(batch, batch_idx):
            views = batch[0] if isinstance(batch[0], list) else batch[1]
            seen[name].append(torch.stack(list(views)).sum() + torch.rand(()))
            return inner(batch, batch_idx)

        module.training_step = training_step
        callbacks = [hosts.negative_control()(sampler)] if sampler else []
        hosts.trainer(callbacks=callbacks).fit(module, hosts.loader())
        return hosts.parameters(module)

    untouched, treated = record("untouched", None), record("treated", "uniform(num_negatives=1)")
    assert len(seen["treated"]) == 4
    for a, b in zip(seen["untouched"], seen["treated"], strict=True):
        assert torch.equal(a, b)  # weights, batches and the global generator
    assert not torch.equal(untouched, treated)


def test_half_precision_trains():
    spelling = "bf16" if hosts.lightning().__version__.startswith("1.") else "bf16-mixed"
    module, callback, _ = fit("uniform(num_negatives=1)", precision=spelling, size=80)
    assert callback.injection.losses[hosts.site_name()].calls == 10
    assert hosts.parameters(module).isfinite().all()


def test_the_model_is_given_back_and_its_checkpoint_is_the_hosts(tmp_path):
    module, _, trainer = fit("uniform(num_negatives=3)")
    assert "training_step" not in vars(module)
    assert all("forward" not in vars(child) for child in module.modules())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert set(checkpoint["state_dict"]) == set(hosts.recipe().state_dict())
    hosts.recipe().load_state_dict(checkpoint["state_dict"], strict=True)
    state = checkpoint["callbacks"]["negplug"]
    assert state["sampler"] == "uniform(num_negatives=3)"
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_accumulated_batches_are_steps_of_their_own():
    _, callback, _ = fit("uniform(num_negatives=2)", accumulate_grad_batches=3)
    state = callback.state_dict()["losses"][hosts.site_name()]["_extra_state"]
    assert state["step"] == 3


def test_expression_and_negatives_reach_the_logger(tmp_path):
    loggers = hosts.lightning().loggers
    logger = loggers.CSVLogger(str(tmp_path))
    _, _, trainer = fit("uniform(num_negatives=5)", logger=logger, log_every_n_steps=1)
    name = f"negplug/{hosts.site_name()}/num_negatives"
    assert trainer.callback_metrics[name] == 5
    logger.save()
    written = (Path(logger.log_dir) / "hparams.yaml").read_text()
    assert "negplug/sampler: uniform(num_negatives=5)" in written


def test_both_lightnings_get_a_callback_of_their_own_class():
    control = hosts.negative_control()("in_batch()")
    assert isinstance(control, hosts.lightning().Callback)


def test_calls_in_validation_do_not_count_as_training():
    module = hosts.recipe()
    step = module.training_step
    module.validation_step = lambda batch, batch_idx: step(batch, batch_idx) and None
    # solo-learn's own evaluation of what its validation_step returns.
    for name in ("validation_epoch_end", "on_validation_epoch_end"):
        if getattr(module, name, None) is not None:
            setattr(module, name, lambda *outputs: None)
    head = next(p for p in module.parameters() if p.requires_grad)
    module.training_step = lambda batch, batch_idx: head.sum() * 0
    trainer = hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])
    with pytest.raises(RuntimeError, match="the first training batch never called it"):
        trainer.fit(module, hosts.loader(), hosts.loader())


def test_epochs_of_a_single_batch():
    _, callback, _ = fit("in_batch()", max_epochs=3, limit_train_batches=1)
    assert callback.injection.losses[hosts.site_name()].calls == 3


def test_a_loss_made_after_setup_is_treated():
    if hosts.site_name() != "criterion":
        pytest.skip("a criterion can be made late; solo-learn's loss belongs to the class")
    module = hosts.recipe()
    criterion = module.criterion
    del module.criterion
    module.configure_model = lambda: setattr(module, "criterion", criterion)
    control = hosts.negative_control()("in_batch()", target="criterion")
    hosts.trainer(callbacks=[control]).fit(module, hosts.loader())
    assert control.injection.losses["criterion"].calls == 3


def test_explicit_objective_and_temperature_replace_the_hosts():
    views = [torch.randn(6, 16) for _ in range(2)]
    loss_fn = ContrastiveLoss(objective="infonce()", temperature=0.7)
    module = hosts.recipe(temperature=0.2)
    control = inject(module, "in_batch()", "infonce(positives='each')", 0.7)
    treated = control.losses[hosts.site_name()]
    from negplug import ContrastiveBatch, make_objective

    batch = ContrastiveBatch.from_views(tuple(views))
    value = treated(batch, objective=make_objective("infonce()"), temperature=0.2)
    assert torch.equal(value, loss_fn(*views))
    control.remove()
