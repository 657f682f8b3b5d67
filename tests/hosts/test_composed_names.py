"""Embeddings that a composer would keep under wrong indexes are refused."""

from __future__ import annotations

import hosts
import pytest
import torch
from composing import WALK, loader

pytestmark = pytest.mark.filterwarnings("ignore")


def shuffled(control, batch):
    return [[v.flip(0) for v in part] if isinstance(part, list) else part for part in batch]


def hashed(control, batch):
    views = next(part for part in batch if isinstance(part, list))
    control.injection.provide(indexes=2**40 + torch.arange(len(views[0])))
    return batch


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shuffled, "training_step moves, drops, repeats or mixes rows"),
        (hashed, "from 0 to 25, but those that were provided go from 1099511627776"),
    ],
)
def test_embeddings_under_wrong_names_are_refused(change, reason):
    module, control = hosts.recipe(), hosts.negative_control()("in_batch()", compose=WALK)
    step = module.training_step
    module.training_step = lambda batch, batch_idx: step(change(control, batch), batch_idx)
    with pytest.raises(ValueError, match=reason):
        hosts.trainer(callbacks=[control]).fit(module, loader())
