"""What the Lightning callback refuses, with the reason."""

from __future__ import annotations

import hosts
import pytest
import torch
import validating

from negplug import inject

pytestmark = pytest.mark.filterwarnings("ignore")


def test_sharding_strategies_are_refused_with_the_reason():
    class FSDPStrategy:
        """Stands for a strategy that this machine cannot start."""

    class Trainer:
        strategy = FSDPStrategy()
        is_global_zero = True
        callbacks = ()

    with pytest.raises(ValueError, match=r"untested with FSDPStrategy.*use ModelParallel"):
        hosts.negative_control()("in_batch()").setup(Trainer(), hosts.recipe(), "fit")
    # A model that is not ours to treat trains with whatever it likes.
    hosts.negative_control()("in_batch()").setup(Trainer(), _without_loss(), "fit")


def test_a_model_without_known_loss_is_an_error():
    trainer = hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])
    with pytest.raises(ValueError, match="no known contrastive loss found in Plain"):
        trainer.fit(_without_loss(), hosts.loader())


def test_a_treated_loss_that_is_never_called_is_an_error():
    module = hosts.recipe()
    head = next(p for p in module.parameters() if p.requires_grad)
    module.training_step = lambda batch, batch_idx: head.sum() * 0
    trainer = hosts.trainer(callbacks=[hosts.negative_control()("in_batch()")])
    with pytest.raises(RuntimeError, match=f"treated {hosts.site_name()} of .* never called it"):
        trainer.fit(module, hosts.loader())


def test_a_loss_that_stops_being_called_is_an_error():
    module = hosts.recipe()
    step = module.training_step
    head = next(p for p in module.parameters() if p.requires_grad)

    def training_step(batch, batch_idx):
        return step(batch, batch_idx) if module.current_epoch == 0 else head.sum() * 0

    module.training_step = training_step
    control = hosts.negative_control()("in_batch()")
    with pytest.raises(RuntimeError, match="but epoch 1 never called it"):
        hosts.trainer(callbacks=[control], max_epochs=3).fit(module, hosts.loader())


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_trainer_inside_a_fit_needs_a_callback_of_its_own(stage):
    control = hosts.negative_control()("queue(size=16)")

    class Inside(hosts.lightning().Callback):
        def on_train_epoch_end(self, *_):
            run = getattr(hosts.trainer(callbacks=[control]), stage)
            run(validating.recipe(), hosts.loader())

    with pytest.raises(ValueError, match="in the middle of a fit; a Trainer that runs inside"):
        hosts.trainer(callbacks=[control, Inside()]).fit(hosts.recipe(), hosts.loader())
    hosts.trainer(callbacks=[control]).fit(hosts.recipe(), hosts.loader())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "unifrom(num_negatives=3)"}, "did you mean uniform"),
        ({"sampler": "in_batch()", "temperature": 0}, "temperature must be above 0"),
        ({"sampler": "in_batch()", "objective": "infonce(x=1)"}, "unknown argument 'x'"),
    ],
)
def test_bad_arguments_fail_where_they_are_written(arguments, message):
    with pytest.raises(ValueError, match=message):
        hosts.negative_control()(**arguments)


def test_a_target_that_names_none():
    with pytest.raises(ValueError, match="target='nope' names no loss of this model; there are"):
        inject(hosts.recipe(), "in_batch()", target="nope")


def _without_loss():
    class Plain(hosts.lightning().LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def training_step(self, batch, batch_idx):
            return self.layer(torch.ones(1, 2)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Plain()
