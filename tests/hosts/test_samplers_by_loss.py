"""A mapping from losses to samplers: each loss has its own, with a state of its own."""

from __future__ import annotations

import hosts
import pytest
import torch
from fitted import _full_load
from queue_contents import rows_in

import negplug

pytestmark = pytest.mark.filterwarnings("ignore")

lightly_only = pytest.mark.skipif(
    hosts.site_name() != "criterion", reason="a solo-learn method has one loss"
)
BOTH = {"criterion": "queue(size=64)", "second": "hard(num_negatives=2, skip=1)"}


def recipe(losses=("second",)):
    """A recipe with further losses, each at a temperature of its own."""
    from lightly.loss import NTXentLoss

    module = hosts.recipe()
    for number, name in enumerate(losses):
        setattr(module, name, NTXentLoss(0.3 + number))

    def training_step(batch, batch_idx):
        views = [module.head(module.backbone(view)) for view in batch[0]]
        return sum(getattr(module, name)(*views) for name in ("criterion", *losses))

    module.training_step = training_step
    return module


def fit(samplers, build, ckpt_path=None, max_epochs=1, **arguments):
    hosts.lightning().seed_everything(0)
    module, control = build(), hosts.negative_control()(samplers, **arguments)
    trainer = hosts.trainer(callbacks=[control], max_epochs=max_epochs)
    with _full_load():
        trainer.fit(module, hosts.loader(), ckpt_path=ckpt_path)
    return hosts.parameters(module), control, trainer


def test_one_loss_by_its_name_trains_as_with_a_target():
    name = hosts.site_name()
    ours, control, _ = fit({name: "hard(num_negatives=3)"}, hosts.recipe)
    theirs, _, _ = fit("hard(num_negatives=3)", hosts.recipe, target=name)
    assert torch.equal(ours, theirs)
    assert control.state_dict()["sampler"] == f"{{{name}: hard(num_negatives=3)}}"


@lightly_only
def test_a_mapping_trains_and_resumes_as_one_callback_for_each_loss(tmp_path):
    ours, control, trainer = fit(BOTH, recipe)
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    queue = rows_in(control.state_dict()["losses"]["criterion"])
    assert len(queue) == 48
    hosts.lightning().seed_everything(0)
    plain = recipe()
    handles = [negplug.inject(plain, text, target=name) for name, text in BOTH.items()]
    hosts.trainer().fit(plain, hosts.loader())
    assert torch.equal(ours, hosts.parameters(plain))
    assert all(handle.losses for handle in handles)
    resumed, _, _ = fit(BOTH, recipe, ckpt_path=path, max_epochs=2)
    assert torch.equal(resumed, fit(BOTH, recipe, max_epochs=2)[0])
    other = BOTH | {"second": "hard(num_negatives=2, skip=2)"}
    with pytest.raises(ValueError, match=r"checkpoint was written with the sampler \{criterion"):
        fit(other, recipe, ckpt_path=path, max_epochs=2)


@lightly_only
def test_losses_that_are_not_named_stay_the_host_s_own():
    module = recipe(("second", "third"))
    with negplug.inject(module, BOTH) as handle:
        assert set(handle.losses) == {"criterion", "second"}
        for step in range(4):  # no lookout insists on the third
            generator = torch.Generator().manual_seed(step)
            images = torch.randn(2, 8, 3, 16, 16, generator=generator)
            module.training_step([list(images)], 0).backward()
            handle.end_step()
        assert [treated.calls for treated in handle.losses.values()] == [4, 4]
        first, second = (treated.loss for treated in handle.losses.values())
        assert str(first.sampler) == BOTH["criterion"]
        assert str(second.sampler) == BOTH["second"]


@pytest.mark.parametrize(
    ("sampler", "arguments", "message"),
    [
        ({}, {}, "sampler is an empty mapping; name a loss"),
        ({3: "in_batch()"}, {}, "got the name 3"),
        ({"nope": "in_batch()"}, {}, "target='nope' names no loss of this model; there are"),
        (
            {hosts.site_name(): "in_batch()"},
            {"target": hosts.site_name()},
            "a mapping of samplers both say which losses",
        ),
        (
            {hosts.site_name(): "in_batch()"},
            {"ignore": hosts.site_name()},
            "which is to be treated; leave it out",
        ),
        ({hosts.site_name(): "hard()"}, {}, "missing a required argument"),
    ],
)
def test_bad_mappings(sampler, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        negplug.inject(hosts.recipe(), sampler, **arguments)
    with pytest.raises((TypeError, ValueError), match=message):
        fit(sampler, hosts.recipe, **arguments)
