"""What chains do in a step, in torch operations, on any device: weights of draws, final states.

See :mod:`negplug.kernels.chain` for the arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from negplug.kernels.chain.result import Moves, Walk
from negplug.kernels.precision import widest


def weighed_moves(
    walk: Callable[..., Walk],
    scores: Tensor,
    noise: Tensor,
    initial: Tensor,
    place: Tensor,
    burn_in: float,
) -> Moves:
    """Return what :func:`negplug.kernels.chain.chain_moves` returns, by a walk that counts."""
    # As numbers: a sum of truth values takes longer.
    proposes = torch.gt(scores, -torch.inf, out=torch.empty_like(scores))
    proposed = proposes.sum(1).long()
    passed = _passed_over(proposed, burn_in)
    counts, stayed, last, accepted = walk(scores, noise, initial, passed)
    total = proposed - passed
    # Where nothing is proposed, the state is still a draw.
    idle = (total == 0) & (initial > -torch.inf)
    share = total.clamp_(min=1).to(scores).reciprocal_()
    stayed = stayed.mul_(share).masked_fill_(idle, 1.0)
    inside = place >= 0
    weights = counts.mul_(share[:, None])
    weights.scatter_add_(1, place.clamp(min=0)[:, None], (stayed * inside)[:, None])
    return Moves(weights, stayed.masked_fill_(inside, 0.0), last, accepted.div_(proposed))


def _passed_over(proposed: Tensor, burn_in: float) -> Tensor:
    """Return the burn-in of each chain, ``[N]``: a draw is left where there are proposals."""
    if not burn_in:
        return torch.zeros_like(proposed)
    most = (proposed - 1).clamp(min=0)
    if isinstance(burn_in, float):
        return (proposed.to(widest(proposed.device)) * burn_in).long().minimum(most)
    return most.clamp(max=burn_in)


def resampled(scores: Tensor, noise: Tensor, initial: Tensor, place: Tensor) -> Moves:
    """Return what :func:`negplug.kernels.chain.resample` returns."""
    own = initial.masked_fill(place >= 0, -torch.inf)
    candidates = torch.cat([own[None], scores.T]).T
    weights = softmax_of_some(candidates)
    best, chosen = (candidates + noise).max(1)
    # Of nothing but -inf, none is chosen.
    last = chosen.sub_(1).masked_fill_(best == -torch.inf, -1)
    moved = (last >= 0) & (last != place)
    idle = scores.amax(1) == -torch.inf
    accepted = moved.to(scores.dtype).masked_fill_(idle, torch.nan)
    return Moves(weights[:, 1:], weights[:, 0], last, accepted)


def softmax_of_some(scores: Tensor) -> Tensor:
    """Return the softmax of each row ``[N, C]``, 0 where there is nothing but -inf."""
    lowest = torch.finfo(scores.dtype).min
    weights = scores.T.clamp(min=lowest).softmax(0).T
    return weights.mul_(scores.amax(1, keepdim=True) > -torch.inf)


def gathered(values: Tensor, place: Tensor, otherwise: Tensor) -> Tensor:
    """Return what :func:`negplug.kernels.chain.pick` returns."""
    found = values.gather(1, place.clamp(min=0)[:, None])[:, 0]
    return torch.where(place < 0, otherwise, found)


def gathered_on_host(values: Tensor, place: Tensor, otherwise: Tensor) -> Tensor:
    """Do the same where values are free to read, by fewer operations that cost less."""
    column = place.numpy()
    found = values.numpy()[np.arange(len(column)), column]  # of -1, the last: which is not taken
    return torch.from_numpy(np.where(column < 0, otherwise.numpy(), found))
