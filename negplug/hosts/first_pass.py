"""The first pass of a reentrant checkpoint, in which a loss has no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from negplug.kernels.torch_private import inside_function


def may_be_checkpointed(module: nn.Module, output: Any) -> bool:
    """Return whether a module returns what may be a loss of the first, reentrant pass.

    ``torch.utils.checkpoint`` with ``use_reentrant=True`` computes it without a gradient first.
    """
    is_scalar = isinstance(output, Tensor) and not output.ndim and output.is_floating_point()
    return is_scalar and module.training and not torch.compiler.is_compiling() and inside_function()
