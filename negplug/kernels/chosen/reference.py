"""Similarities of chosen pairs by their definition, for autograd; materialises ``[N, M, d]``.

Sums are taken in float64, as a reference should.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.precision import widest


def gathered_similarities(
    anchors: Tensor, pool: Tensor, columns: Tensor, mask: Tensor | None
) -> Tensor:
    """Return ⟨a_i, k_{c(i,m)}⟩; see :func:`negplug.kernels.chosen.chosen_similarities`."""
    wide = (pool[columns] * anchors[:, None]).sum(-1, dtype=widest(anchors.device))
    similarities = wide.to(anchors.dtype)
    return similarities if mask is None else similarities.masked_fill(~mask, 0.0)
