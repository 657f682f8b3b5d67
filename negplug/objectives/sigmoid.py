"""``sigmoid()``: each pair is classified on its own, positive or negative.

Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (SigLIP,
https://arxiv.org/abs/2303.15343, section 3.2). With the logits s = ⟨a, k⟩/τ of anchor i, a bias b
and σ the logistic function,

    L_i = −Σ_p log σ(s_p + b) − Σ_j w_ij log σ(−s_ij − b)
        = Σ_p softplus(−s_p − b) + Σ_j w_ij softplus(s_ij + b)

over its positives p and its negatives j. There is no denominator: the loss is a sum over pairs,
which grows with the number of negatives, and their weights w (``correction=True``) make the sum of
a few estimate that of all. SigLIP's is ``pairs(…, symmetric=False)`` with ``in_batch()``; both
directions have the same value.

b starts at −10, so that the many negatives cost little at first, and is learned there
(``learn=True``), with its exact gradient. It is a parameter of the loss then, ``objective.bias``,
for an optimizer of your own: a treated recipe's optimizer does not know of it. Estimator:
``"partition"``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.hookspecs import ObjectiveSpec, hookimpl
from negplug.contract.inputs import check_flag, check_number
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.objectives.logits import log_number, positive_logits
from negplug.objectives.logits.softplus import STEEP, negative_softplus


class Sigmoid(Objective):
    """The pairwise sigmoid loss.

    Args:
        bias: b, added to every logit.
        learn: Whether b is a parameter.

    Raises:
        TypeError: If ``bias`` is no number, or ``learn`` no truth value.
        ValueError: If ``bias`` is infinite.
    """

    expression = "sigmoid()"
    bias: float | nn.Parameter

    def __init__(self, bias: float = -10.0, learn: bool = False) -> None:
        super().__init__()
        number = check_number("sigmoid", "bias", bias, -math.inf, math.inf)
        learns = check_flag("sigmoid", "learn", learn)
        self.bias = nn.Parameter(torch.tensor(number)) if learns else number
        self.expression = f"sigmoid(bias={bias!r}{', learn=True' if learns else ''})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        self.check_partition(negatives)
        anchors = batch.anchors.embeddings
        bias = self._bias_for(anchors)
        present = batch.positives >= 0
        logits = torch.where(present, positive_logits(batch, temperature), 0.0)
        pull = torch.where(present, softplus(-logits - bias, threshold=STEEP), 0.0).sum(1)
        push = negative_softplus(batch, negatives, temperature, bias)
        # Alone, the push or the pull would drive all rows apart or together.
        nothing = ~present.any(1) | (log_number(batch, negatives) == -torch.inf)
        return torch.where(nothing, 0.0 * anchors.sum(1), pull + push)

    def _bias_for(self, anchors: Tensor) -> Tensor:
        if isinstance(self.bias, Tensor):
            return self.bias.to(anchors)
        return torch.full((), self.bias, dtype=anchors.dtype, device=anchors.device)


@hookimpl
def negplug_objectives() -> Iterable[ObjectiveSpec]:
    """Offer ``sigmoid``."""
    yield ObjectiveSpec(
        "sigmoid",
        Sigmoid,
        "each pair on its own, with a bias (SigLIP)",
        "Zhai et al. 2023, arXiv:2303.15343",
    )
