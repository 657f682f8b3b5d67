"""A model with two of Lightly's criteria, and the site of one."""

from __future__ import annotations

import pytest
from torch import nn

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


class Recipe(nn.Module):
    """Two criteria, one of them registered twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.first = NTXentLoss(temperature=0.1)
        self.losses = nn.ModuleList([NTXentLoss(temperature=0.2), self.first])


def _site_of(criterion):
    handle = inject(criterion, "in_batch()")
    handle.remove()
    return handle.sites[0]
