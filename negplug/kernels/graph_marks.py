"""Losses that are known, marked in the graph that autograd keeps: who walks down it stops there."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

_KEY = "negplug: known"


def mark(loss: Tensor) -> None:
    """Mark the operation that has returned a loss."""
    if loss.grad_fn is not None:
        _notes(loss.grad_fn)[_KEY] = True


def is_marked(node: Node) -> bool:
    """Return whether the operation of a node has returned a marked loss."""
    return _KEY in _notes(node)


def _notes(node: Node) -> dict[str, Any]:
    """Return what a node keeps for whoever asks; a property, though its stub says a method."""
    notes: Any = node.metadata
    return notes  # type: ignore[no-any-return]
