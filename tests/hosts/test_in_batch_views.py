"""``in_batch(views=…)`` in the hosts' recipes: half of the batch's rows serve."""

from __future__ import annotations

import hosts
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("half", ["cross", "same"])
def test_a_recipe_trains_on_half_of_the_rows(half):
    torch.manual_seed(0)
    control = hosts.negative_control()(f"in_batch(views={half!r})")
    trainer = hosts.trainer(callbacks=[control], max_steps=2, log_every_n_steps=1)
    trainer.fit(hosts.recipe(), hosts.loader(batch_size=8))
    (treated,) = control.injection.losses.values()
    assert treated.loss.observed["num_negatives"] == 7
