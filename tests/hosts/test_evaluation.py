"""In validation a recipe logs the host's own loss, whatever the sampler and the stage."""

from __future__ import annotations

import logging

import hosts
import pytest
import torch
import validating
from fitted import _full_load
from queue_contents import rows_in
from resumable import same_state

import negplug

pytestmark = pytest.mark.filterwarnings("ignore")

TREATED = f"negplug/{hosts.site_name()}/treated_loss"


def fitted(sampler, module=None, **kwargs):
    hosts.lightning().seed_everything(0)
    module = validating.recipe() if module is None else module
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], inference_mode=False, **kwargs)
    trainer.fit(module, hosts.loader(), validating.loader())
    return module, trainer, control


@pytest.mark.parametrize(
    "sampler", ["uniform(num_negatives=2)", "hard(num_negatives=3)", "queue(size=40)"]
)
def test_the_recipes_name_has_the_hosts_value_and_the_treated_one_is_beside_it(sampler):
    module, trainer, _ = fitted(sampler)
    inside = float(trainer.callback_metrics["val_loss"])
    assert inside == pytest.approx(validating.hosts_own(module), rel=1e-6)
    assert abs(float(trainer.callback_metrics[TREATED]) - inside) > 1e-3


def test_in_batch_is_the_host_beside_it_too():
    if hosts.site_name() != "criterion":
        pytest.skip("solo-learn adds its classifier's loss to the contrastive one")
    _, trainer, _ = fitted("in_batch()", max_epochs=2)
    values = [float(trainer.callback_metrics[name]) for name in (TREATED, "val_loss")]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_stages_outside_fit_are_the_hosts_own_and_say_so(stage, tmp_path, caplog):
    control = hosts.negative_control()("uniform(num_negatives=2)")
    hosts.lightning().seed_everything(0)
    module = validating.recipe()
    trainer = hosts.trainer(callbacks=[control], inference_mode=False)
    run = getattr(trainer, stage)
    with caplog.at_level(logging.INFO, "negplug"):
        before = run(module, validating.loader(), verbose=False)[0]
    assert f"{stage} runs the host's own" in caplog.text
    assert before["val_loss"] == pytest.approx(validating.hosts_own(module, stage), rel=1e-6)
    assert TREATED not in before
    trainer.fit(module, hosts.loader(), validating.loader())
    inside = float(trainer.callback_metrics["val_loss"])
    assert inside != pytest.approx(before["val_loss"], rel=1e-4)  # it learnt something
    state = control.state_dict()
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    for checkpoint in (None, path):
        with _full_load():
            after = run(module, validating.loader(), ckpt_path=checkpoint, verbose=False)[0]
        assert after["val_loss"] == pytest.approx(inside, rel=1e-6)
    assert same_state(control.state_dict(), state)


def test_a_checkpoint_to_evaluate_is_no_state_of_the_next_fit(tmp_path):
    module, trainer, _ = fitted("queue(size=40)")
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    control = hosts.negative_control()("queue(size=64)")
    again = hosts.trainer(callbacks=[control], inference_mode=False, limit_train_batches=1)
    with _full_load():
        again.validate(module, validating.loader(), ckpt_path=path, verbose=False)
    again.fit(validating.recipe(), hosts.loader())
    assert len(rows_in(control.injection.losses[hosts.site_name()].loss.state_dict())) == 16


def test_in_a_plain_loop_eval_mode_without_gradient_is_an_evaluation():
    torch.manual_seed(0)
    module, (batch, *_) = hosts.recipe(), validating.loader()
    module.log = module.log_dict = lambda *_, **__: None

    def loss(training, gradient):
        module.train(training)
        with torch.set_grad_enabled(gradient):
            out = module.training_step(batch, 0)
        return float(out["loss"] if isinstance(out, dict) else out)

    own = loss(True, True)
    with negplug.inject(module, "hard(num_negatives=2)"):
        treated = loss(True, True)
        assert abs(treated - own) > 1e-2
        assert loss(False, False) == pytest.approx(own, rel=1e-6)
        assert loss(True, False) == loss(False, True) == pytest.approx(treated, rel=1e-6)


def test_validation_with_gradient_moves_no_state():
    states = []
    for gradient in (False, True):
        hosts.lightning().seed_everything(0)
        module = validating.recipe(gradient=gradient)
        _, trainer, control = fitted("queue(size=40)", module, max_epochs=2)
        states.append((control.state_dict(), hosts.parameters(module)))
        assert TREATED in trainer.callback_metrics
    assert same_state(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


def test_training_goes_on_treated_after_a_validation_in_the_middle_of_an_epoch():
    plain, _, control = fitted("uniform(num_negatives=2)", max_epochs=2)
    often, _, other = fitted("uniform(num_negatives=2)", max_epochs=2, val_check_interval=1)
    assert torch.equal(hosts.parameters(plain), hosts.parameters(often))
    assert same_state(control.state_dict(), other.state_dict())


def test_the_hosts_memory_bank_is_as_validation_of_the_untreated_recipe_leaves_it():
    if hosts.site_name() != "criterion":
        pytest.skip("solo-learn keeps its queue outside of the loss")
    module = validating.recipe(hosts.queue_recipe(20))
    before = module.criterion.memory_bank.bank.clone()
    hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")]).validate(
        module, validating.loader(), verbose=False
    )
    assert torch.equal(module.criterion.memory_bank.bank, before)
