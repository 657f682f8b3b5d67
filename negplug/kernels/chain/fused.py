"""Chains in one launch on a GPU: see :mod:`negplug.kernels.chain.programs`.

Import this module only where Triton is installed.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from negplug.kernels.chain.programs import walk_of_chains
from negplug.kernels.chain.result import Walk

# Chains of one program: neighbours in memory, which a device reads together.
_CHAINS = 4
# Entries of a program.
_ENTRIES = 8192


def fused_walk(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Return what :func:`negplug.kernels.chain.walk` returns; see there for the arguments.

    Quickest where ``scores.T`` and ``noise.T`` are contiguous; ``counts.T`` is.
    """
    chains, steps = scores.shape
    counts = scores.new_empty(steps, chains)
    stayed, accepted = scores.new_empty(2, chains)
    last = scores.new_empty(chains, dtype=torch.int64)
    rows = triton.next_power_of_2(steps)
    width = max(1, min(_CHAINS, _ENTRIES // rows))
    with torch.cuda.device_of(scores):  # type: ignore[no-untyped-call]
        walk_of_chains[(triton.cdiv(chains, width),)](
            scores.T.contiguous(),
            noise.T.contiguous(),
            initial.contiguous(),
            burn_in.contiguous(),
            counts,
            stayed,
            last,
            accepted,
            chains,
            steps,
            BN=width,
            BR=rows,
            num_warps=8 if rows * width > 2048 else 4,
        )
    return Walk(counts.T, stayed, last, accepted)
