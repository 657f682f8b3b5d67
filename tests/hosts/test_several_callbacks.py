"""Several callbacks in one Trainer: a loss each, with settings and a state of its own."""

from __future__ import annotations

import hosts
import pytest
import torch
from fitted import _full_load
from queue_contents import names_in, rows_in

pytestmark = pytest.mark.filterwarnings("ignore")

lightly_only = pytest.mark.skipif(
    hosts.site_name() != "criterion", reason="a solo-learn method has one loss"
)


def control(sampler, target=None, **kwargs):
    return hosts.negative_control()(sampler, target=target, **kwargs)


def recipe():
    """A recipe with a second loss at another temperature."""
    from lightly.loss import NTXentLoss

    module = hosts.recipe()
    module.second = NTXentLoss(0.3)

    def training_step(batch, batch_idx):
        views = [module.head(module.backbone(view)) for view in batch[0]]
        return module.criterion(*views) + module.second(*views)

    module.training_step = training_step
    return module


def fit(*callbacks, module=None, ckpt_path=None, **kwargs):
    hosts.lightning().seed_everything(0)
    module = recipe() if module is None else module
    trainer = hosts.trainer(callbacks=list(callbacks), **kwargs)
    with _full_load():
        trainer.fit(module, hosts.loader(), ckpt_path=ckpt_path)
    return module, trainer


@lightly_only
def test_each_loss_has_its_own_sampler_and_trains_as_if_both_were_injected():
    import negplug

    few, hard = (
        control("uniform(num_negatives=2)", "criterion"),
        control("hard(num_negatives=2)", "second"),
    )
    module, trainer = fit(few, hard, log_every_n_steps=1)
    assert {key for each in (few, hard) for key in each.injection.losses} == {"criterion", "second"}
    assert trainer.callback_metrics["negplug/criterion/num_negatives"] == 2
    hosts.lightning().seed_everything(0)
    plain = recipe()
    with (
        negplug.inject(plain, "uniform(num_negatives=2)", target="criterion"),
        negplug.inject(plain, "hard(num_negatives=2)", target="second"),
    ):
        hosts.trainer().fit(plain, hosts.loader())
    assert torch.equal(hosts.parameters(module), hosts.parameters(plain))


@lightly_only
@pytest.mark.parametrize("sampler", ["memory_bank()", 'filtered(by="labels")'])
def test_the_recipes_own_step_is_back_once_rows_were_followed(sampler):
    module, steps = recipe(), []
    own = module.training_step

    def training_step(batch, batch_idx):
        steps.append(module.training_step is training_step)
        return own(batch, batch_idx)

    module.training_step = training_step
    fit(control(sampler, "criterion"), control(sampler, "second"), module=module)
    assert steps == [False, False, True]


@lightly_only
def test_each_has_the_indexes_and_a_state_in_the_checkpoint(tmp_path):
    pair = [control("queue(size=64)", "criterion"), control("memory_bank()", "second")]
    _, trainer = fit(*pair)
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=False)["callbacks"]
    assert {key for key in saved if key.startswith("negplug")} == {
        "negplug/criterion",
        "negplug/second",
    }
    for name, expected in (("criterion", 48), ("second", 24)):
        indexes = names_in(saved[f"negplug/{name}"]["losses"][name])[1]
        assert sorted(set(indexes.tolist())) == list(range(24))
        assert len(indexes) == expected
    again = [control("queue(size=64)", "criterion"), control("memory_bank()", "second")]
    straight = [control("queue(size=64)", "criterion"), control("memory_bank()", "second")]
    resumed, _ = fit(*again, ckpt_path=path, max_epochs=2)
    uninterrupted, _ = fit(*straight, max_epochs=2)
    assert torch.equal(hosts.parameters(resumed), hosts.parameters(uninterrupted))


@lightly_only
def test_what_one_embeds_anew_is_no_step_of_the_other():
    # The step is run again up to the second loss, and so through the first.
    chain = control("emc2(out_of_batch='recompute')", "second")
    queue = control("queue(size=640)", "criterion")
    fit(chain, queue, max_epochs=2)
    (treated,) = queue.injection.losses.values()
    assert treated.calls == 6
    assert len(rows_in(treated.loss.state_dict())) == 6 * 16


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((hosts.site_name(), hosts.site_name()), f"two .* target='{hosts.site_name()}'"),
        ((None, hosts.site_name()), "one of several NegativeControl callbacks has no target"),
        ((None, None), "one of several NegativeControl callbacks has no target"),
    ],
)
def test_two_treatments_of_one_loss_are_an_error(targets, message):
    pair = [control("uniform(num_negatives=2)", target) for target in targets]
    with pytest.raises(ValueError, match=message):
        fit(*pair, module=hosts.recipe())


def test_one_callback_that_is_listed_twice_is_an_error():
    once = control("uniform(num_negatives=2)")
    with pytest.raises(ValueError, match="callbacks hold the same NegativeControl twice"):
        fit(once, once, module=hosts.recipe())
    fit(once, module=hosts.recipe())
    assert once.state_key == "negplug"


@pytest.mark.parametrize(("first", "then"), [(None, hosts.site_name()), (hosts.site_name(), None)])
def test_naming_the_only_loss_or_no_longer_loses_no_state(tmp_path, first, then):
    _, trainer = fit(control("queue(size=96)", first), module=hosts.recipe())
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    again = control("queue(size=96)", then)
    fit(again, module=hosts.recipe(), ckpt_path=path, max_epochs=2)
    assert len(rows_in(again.injection.losses[hosts.site_name()].loss.state_dict())) == 96


@lightly_only
def test_the_state_of_other_losses_alone_is_refused(tmp_path):
    pair = [control("queue(size=64)", "criterion"), control("queue(size=64)", "second")]
    _, trainer = fit(*pair)
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    message = "holds the sampler state of criterion, second, but a NegativeControl .* every loss"
    with pytest.raises(ValueError, match=message):
        fit(control("queue(size=64)"), ckpt_path=path, max_epochs=2)
