"""A fit of the host's recipe whose training step also computes a loss of its own."""

from __future__ import annotations

import hosts
from device import DEVICE
from torch import nn


def fit(call, *, attribute=None, epochs=1, **settings):
    """Fit the host's recipe, whose every step also makes ``call(module, a, b, batch_idx)``."""
    module = hosts.recipe()
    if attribute is not None:
        module.another = attribute
    step, head = module.training_step, nn.Linear(3 * hosts.IMAGE**2, 8).to(DEVICE)

    def training_step(batch, batch_idx):
        views = next(part for part in batch if isinstance(part, list))
        call(module, *(head(view.flatten(1)) for view in views[:2]), batch_idx)
        return step(batch, batch_idx)

    module.training_step = training_step
    control = hosts.negative_control()("uniform(num_negatives=2)", **settings)
    hosts.trainer(callbacks=[control], max_epochs=epochs).fit(module, hosts.loader())
    return control
