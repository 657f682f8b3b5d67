"""What a training step returns, for micro-batches and for the logical batch that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def loss_of(output: Any) -> Tensor | None:
    """Return the loss in what a step returns; None if it returns none."""
    return output.get("loss") if isinstance(output, Mapping) else output


def without_graph(output: Any) -> Any:
    """Return the same without graphs, which would keep a micro-batch's activations."""
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        return {name: without_graph(value) for name, value in output.items()}
    return output


def joined(outputs: Sequence[Any], rows: Sequence[int], loss: Tensor) -> Any:
    """Return what the step returns for the logical batch.

    Args:
        outputs: What it has returned for each micro-batch.
        rows: Number of rows of each micro-batch.
        loss: Of the logical batch.

    Returns:
        The loss; or a mapping as the step returns it, numbers as the mean over rows, other tensors
        joined along the rows, and of other values the last.

    Raises:
        ValueError: If the step returned a loss for some micro-batches alone.
    """
    if any(loss_of(output) is None for output in outputs):
        raise ValueError(
            "accumulate: the step returns a loss for some micro-batches of a batch and none for "
            "others; have it return one for all or for none"
        )
    if not isinstance(outputs[0], Mapping):
        return loss
    return {
        name: loss if name == "loss" else _joined([output[name] for output in outputs], rows)
        for name in outputs[0]
    }


def _joined(values: Sequence[Any], rows: Sequence[int]) -> Any:
    if not isinstance(values[0], Tensor):
        return values[-1]
    if values[0].ndim:
        return torch.cat(list(values))
    return sum(value * (n / sum(rows)) for value, n in zip(values, rows, strict=True))
