"""What anchors have to do with their states."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Compared(NamedTuple):
    """Logits of the states of N anchors, of V views each.

    Attributes:
        columns: ``[N, V]`` int64, the entries of the table, one view after another; some entry
            where there is none.
        logits: ``[V, N]``; -inf where a view is unknown, or the state is not outside.
        log_number: ``[N]``, the logarithm of how many views are known, of one at least.
        scores: ``[N]``, the logit of the state; -inf where it is unknown or not outside.
        initial: ``[N]``, that logit where the state is outside, otherwise what was given.
    """

    columns: Tensor
    logits: Tensor
    log_number: Tensor
    scores: Tensor
    initial: Tensor
