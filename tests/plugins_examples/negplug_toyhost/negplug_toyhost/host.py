"""The host: it knows nothing of negplug."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize


class PairLoss(nn.Module):
    """Finds each row's partner among the other view's rows (one direction).

    Args:
        temperature: The scale of the logits.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the mean loss of ``queries`` ``[B, d]`` against ``keys`` ``[B, d]``."""
        logits = normalize(queries, dim=1) @ normalize(keys, dim=1).T / self.temperature
        return cross_entropy(logits, torch.arange(len(queries)))
