"""Where backward passes begin, watched for the losses that a recipe computes inline.

``torch.logsumexp`` over similarities, say, is no module, and no function of torch that losses
alone end with. But what a training step is to learn from is what its backward pass begins with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from negplug.kernels.torch_private import backward_runs

_own: Callable[..., Any] | None = None


def watch(look: Callable[[Tensor], None]) -> None:
    """Call ``look`` with each tensor that a backward pass begins with, until :func:`stop`."""
    global _own
    if _own is None:
        _own = torch.autograd.backward
        setattr(torch.autograd, "backward", _noting(_own, look))  # noqa: B010


def stop() -> None:
    """Watch no more."""
    global _own
    # Unless someone else has wrapped it since, who would lose his.
    if _own is not None and getattr(torch.autograd.backward, "__wrapped__", None) is _own:
        setattr(torch.autograd, "backward", _own)  # noqa: B010
        _own = None


def _noting(backward: Callable[..., Any], look: Callable[[Tensor], None]) -> Callable[..., Any]:
    @functools.wraps(backward)
    def noting(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if not backward_runs():  # a checkpointed region has a pass of its own
            for root in tensors if isinstance(tensors, (list, tuple)) else (tensors,):
                if isinstance(root, Tensor) and root.requires_grad:
                    look(root)
        return backward(tensors, *args, **kwargs)

    return noting
