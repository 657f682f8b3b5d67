"""Metropolis–Hastings chains step by step, as a loop over proposals in Python.

The form in which EMC² was published (Yau et al., 2024), written anew from its description: all
chains take a proposal at a time, and a step is a handful of masked vector operations on N chains.
It is rather quicker than that, for it neither exponentiates nor draws: proposals are accepted in
log space, and the noise is an argument. So it returns to the last draw what
:func:`negplug.chain.walk` returns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.chain import Walk


def masked_loop(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Return the walk; arguments as of :func:`negplug.chain.walk`."""
    chains, steps = scores.shape
    rows = torch.arange(chains, device=scores.device)
    # The last column is the initial state's.
    counts = torch.zeros(chains, steps + 1, dtype=torch.int32, device=scores.device)
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
        counts[rows, state] += (valid & (done > burn_in)).int()
    last = torch.where(state == steps, -1, state)
    return Walk(counts[:, :steps], counts[:, steps], last, accepted)
