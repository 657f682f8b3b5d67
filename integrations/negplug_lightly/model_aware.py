"""The form of Lightly's ``MACLLoss``.

Source: Huang et al. 2023, "Model-Aware Contrastive Learning" (https://arxiv.org/abs/2207.07874),
as Lightly has it. With L_i = −log P_i the softmax contrastive loss of anchor i, the loss is

    V_i L_i,    V_i = 1 / (1 − P_i + ε),

where the weight V is detached: it makes up for the share 1 − P_i that shrinks the gradient of an
anchor whose positive dominates already.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Negatives
from negplug.objectives.infonce import InfoNCE


class ModelAware(InfoNCE):
    """The softmax contrastive loss, weighted as in MACL.

    Args:
        eps: ε > 0, which bounds the weight.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.expression = f"MACLLoss(eps={eps!r})"

    def forward(
        self, batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
    ) -> Tensor:
        """Return the loss per anchor, ``[N]``."""
        self.check_partition(negatives)
        losses = super().forward(batch, negatives, temperature)
        # 1 − e^{−L}, exact for small L too.
        share = -(-losses.detach()).expm1()
        return losses / (share + self.eps)
