"""A data set that grows in place, between the epochs of a fit."""

from __future__ import annotations

import hosts
import pytest
from torch.utils.data import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore")


class Growing(hosts.Pairs):
    """Counts more of its samples later on."""

    def __init__(self):
        super().__init__(48)
        self.names = [f"{number}.png" for number in range(16)]

    def __len__(self):
        return len(self.names)


def fit(sampler, objective):
    data = Growing()

    class Grow(hosts.lightning().Callback):
        def on_train_epoch_end(self, *_):
            data.names += [f"{number}.png" for number in range(len(data), len(data) + 8)]

    control = hosts.negative_control()(sampler, objective=objective)
    trainer = hosts.trainer(callbacks=[control, Grow()], max_epochs=3)
    trainer.fit(hosts.recipe(), DataLoader(data, batch_size=8, shuffle=True, drop_last=True))
    return control.injection.losses[hosts.site_name()].calls


@pytest.mark.parametrize(
    ("sampler", "objective", "part"),
    [
        ("emc2({})", None, "emc2"),
        ("isir({})", None, "isir"),
        ("in_batch()", "sogclr({})", "sogclr"),
        ("in_batch()", "isogclr({})", "isogclr"),
    ],
)
def test_state_per_sample_needs_the_size_that_it_will_have(sampler, objective, part):
    def fill(size):
        return sampler.format(size), objective and objective.format(size)

    message = f"a data set of 16 samples, but the data set has 24 now.* give {part} .* as size="
    with pytest.raises(ValueError, match=message):
        fit(*fill(""))
    assert fit(*fill("size=32")) == 2 + 2 + 2  # batches: a Trainer counts them once


def test_a_bank_grows_with_it():
    assert fit("memory_bank()", None) > 0
