"""The expected logit of draws from the softmax, Σ_r w_r s(Z_r)/τ.

For draws Z_r of weights w_r that estimate p_i, the softmax over all negatives of anchor i, it has
the gradient of the log-partition, in both arguments (Yau et al. 2024, arXiv:2404.10575,
equation 3):

    ∇ log Σ_j e^{s_ij/τ} = E_{j ~ p_i} ∇ s_ij/τ ≈ Σ_r w_r ∇ s(Z_r)/τ.

How it is computed is told in :mod:`negplug.kernels.posterior`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.exclusion import excluded_pairs
from negplug.contract.negatives import Columns, Negatives, Whole
from negplug.kernels.late import free_to_read
from negplug.kernels.posterior import WeightedDraws, expectation

# Entries of all anchors, of which a mask takes less time than a list of those that are excluded.
_FEW = 2**12


def expected_logit(
    batch: ContrastiveBatch, negatives: Sequence[Negatives], temperature: float
) -> Tensor:
    """Return Σ_r w_r s(Z_r)/τ of each anchor, ``[N]``; -inf (and no gradient) without draws.

    Args:
        batch: Anchors and ids.
        negatives: Draws with the ``"posterior"`` estimator; the weights of an anchor's sum to one.
        temperature: τ > 0.
    """
    pools = [part.rows.embeddings for part in negatives]
    draws = [_draws(batch, part) for part in negatives]
    return expectation(batch.anchors.embeddings, pools, draws, temperature)


def _draws(batch: ContrastiveBatch, part: Negatives) -> WeightedDraws:
    choice = part.choice
    if isinstance(choice, Whole):
        few = len(part.rows) * len(batch.anchors) <= _FEW
        if not few and free_to_read(part.rows.ids.device):
            # A few entries of many: quicker one by one than by a mask over all.
            pairs = excluded_pairs(batch, part.rows)
            return WeightedDraws(part.log_weight, part.mask, pairs=pairs)
        return WeightedDraws(
            part.log_weight, part.mask, ids=(batch.anchors.comparable_ids, part.rows.ids)
        )
    assert isinstance(choice, Columns), "mixtures are never drawn from the softmax"
    return WeightedDraws(part.log_weight, part.mask, columns=choice.columns)
