"""The gradient cache: a step on a large batch in the memory of a small one.

A contrastive loss compares all rows of a batch with each other, so adding up the gradients of
smaller batches is another loss, with fewer negatives. But the loss needs the embeddings alone, and
these are small. Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup" (arXiv:2101.06983), section 3.2:

1. embed the batch, micro-batch by micro-batch, without a graph, keeping the random states;
2. compute the loss L over all embeddings z, and the cache ∂L/∂z;
3. run each micro-batch again, with a graph and its random state, and backpropagate ⟨z, ∂L/∂z⟩;
4. one step of the optimizer.

What is run twice here is a whole training step, with all that it does before and after its losses.
In 1 its losses return zero. In 3 each loss returns the value L that it has for the whole batch,
with the gradient of 3: so whatever the step computes from L and from other terms, ℓ_k(L, …) of
micro-batch k with n_k of n rows, the step's loss is Σ_k (n_k/n) ℓ_k and has the gradient

    Σ_k (n_k/n) ∂ℓ_k/∂θ + Σ_c (Σ_k (n_k/n) ∂ℓ_k/∂L_c) · (∂L_c/∂z ∂z/∂θ + ∂L_c/∂θ),

that of the whole batch if the other terms are means over rows (checked in the first step). The
last term is that of embeddings that the sampler computes itself.

The gradient is there when the step returns: a single backward pass hands it to the parameters. So
ranks synchronise once for each logical batch, and hooks see one gradient.

The price is a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from negplug.hosts.accumulation.logical_batch import LogicalBatch
from negplug.hosts.accumulation.requirements import Requirements
from negplug.hosts.accumulation.rerouting import Loss
from negplug.hosts.accumulation.splitting import split


class GradientCache:
    """Runs training steps micro-batch by micro-batch.

    Args:
        model: All that the step trains.
        losses: The contrastive losses that it calls.
        accumulate: Number of micro-batches of a logical batch.
        insists: Whether the first step has to call one of the losses.

    Attributes:
        losses: The losses; more may be added.
    """

    def __init__(
        self, model: nn.Module, losses: Iterable[Loss], accumulate: int, insists: bool = False
    ) -> None:
        self.losses = list(losses)
        self.accumulate = accumulate
        self._insists = insists
        self._model = model
        self._checked = False

    def run(
        self, step: Callable[[Any], Any], batch: Any, scaler: torch.amp.GradScaler | None = None
    ) -> Any:
        """Return what a step returns for a batch, its loss with the gradient of the whole.

        Args:
            step: Maps a batch to a loss, or to a mapping with one under ``"loss"``, or to None.
            batch: The logical batch.
            scaler: What scales the loss before its backward pass, if anything does.

        Raises:
            ValueError, TypeError: If the batch cannot be split, or a step that runs on parts of it
                is not the step on the whole; see :mod:`negplug.hosts.accumulation.requirements`.
            RuntimeError: If a micro-batch is not the same when it is run again.
        """
        parts = split(batch, self.accumulate)
        if len(parts) < 2:
            return step(batch)
        first = None if self._checked else Requirements(self._model, self._insists)
        logical = LogicalBatch(self._model, self.losses, step, parts, first)
        result = logical.run(scaler)
        self._checked = True
        return result
