"""Similarities of chosen pairs by their definition, for autograd; materialises ``[N, M, d]``."""

from __future__ import annotations

from torch import Tensor


def gathered_similarities(
    anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None
) -> Tensor:
    """Return ⟨a_i, k_{c(i,m)}⟩; see :func:`negplug.kernels.chosen.chosen_similarities`."""
    similarities = (pool[columns] * anchors[:, None]).sum(-1)
    return similarities if mask is None else similarities.masked_fill(~mask, 0.0)
