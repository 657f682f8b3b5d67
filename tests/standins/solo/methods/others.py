"""Methods without negatives, by name alone: what a report of methods has to tell apart."""

from __future__ import annotations

from solo.methods.base import BaseMethod, BaseMomentumMethod


class BarlowTwins(BaseMethod):
    """See https://arxiv.org/abs/2103.03230; it compares columns."""


class BYOL(BaseMomentumMethod):
    """See https://arxiv.org/abs/2006.07733; its loss has no negatives."""


class NNBYOL(BaseMomentumMethod):
    """BYOL with a neighbour as target."""


class SwAV(BaseMethod):
    """See https://arxiv.org/abs/2006.09882; it compares assignments to prototypes."""


class LinearModel(BaseMethod):
    """Linear evaluation of a pretrained encoder."""
