"""Chains as a loop over proposals in torch operations, on any device.

All chains take a proposal at a time, which is a handful of masked operations on N of them: the
form in which EMC² was published (Yau et al. 2024, algorithm 1), in log space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.kernels.chain.result import Walk


def loop_walk(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Return what :func:`negplug.kernels.chain.walk` returns; see there for the arguments."""
    chains, steps = scores.shape
    rows = torch.arange(chains, device=scores.device)
    # The last column is the initial state's.
    counts = scores.new_zeros(chains, steps + 1)
    state = torch.full_like(rows, steps)
    accepted = torch.zeros_like(counts[:, 0])
    done = torch.zeros_like(rows)
    current = initial
    for column in range(steps):
        proposed = scores[:, column]
        valid = proposed > -torch.inf
        accept = valid & (proposed + noise[:, column] > current)
        current = torch.where(accept, proposed, current)
        state = torch.where(accept, column, state)
        accepted += accept
        done += valid
        counts[rows, state] += valid & (done > burn_in)
    last = torch.where(state == steps, -1, state)
    return Walk(counts[:, :steps], counts[:, steps], last, accepted)
