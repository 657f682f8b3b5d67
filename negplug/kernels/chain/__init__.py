"""Metropolis–Hastings chains over a given sequence of proposals.

A chain at a state of score c accepts a proposal of score s with probability min{1, e^{s − c}}:
if, with u uniform in (0, 1),

    s − log u > c,

which in log space is exact at every temperature. Proposals drawn uniformly and independently
make the softmax of the scores its stationary distribution; this is the sampler of EMC² (Yau et
al., "EMC²: Efficient MCMC Negative Sampling for Contrastive Learning with Global Convergence",
2024), whose gradient averages the states that follow a burn-in.

All kernels take the same decisions from the same noise, draw for draw:

- :mod:`negplug.kernels.chain.compiled`, a loop in numba, for tensors on the CPU;
- :mod:`negplug.kernels.chain.fused`, one program in Triton, on a GPU;
- :mod:`negplug.kernels.chain.scan`, an associative scan in torch operations, on any device;
- :mod:`negplug.kernels.chain.reference`, a loop over proposals in Python.

What a sampler makes of a walk (:func:`chain_moves`), of resampling (:func:`resample`) and of the
columns where chains ended (:func:`pick`) is a program each on a GPU, and elsewhere torch operations
around :func:`walk`, :mod:`negplug.kernels.chain.moves`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.kernels.chain.moves import (
    gathered,
    gathered_on_host,
    resampled,
    softmax_of_some,
    weighed_moves,
)
from negplug.kernels.chain.reference import loop_walk
from negplug.kernels.chain.result import Moves, Walk
from negplug.kernels.chain.scan import scan_walk
from negplug.kernels.choice import (
    Kernel,
    Operation,
    lazily,
    numba_refusal,
    numpy_refusal,
    triton_refusal,
)

__all__ = [
    "CHAINS",
    "Moves",
    "Walk",
    "chain_moves",
    "pick",
    "resample",
    "softmax_of_some",
    "walk",
]


def _weighed() -> Callable[..., Moves]:
    return functools.partial(weighed_moves, walk)


class Sizes(NamedTuple):
    """N chains, and C candidates of each."""

    chains: int
    steps: int


# Candidates of all chains; beyond so many torch's exponentials take less time than a loop's.
_FEW = 2**12

# Proposals that a program in Triton holds in its registers.
_MOST_STEPS = 4096


def _fits(sizes: Sizes) -> bool:
    return sizes.steps <= _MOST_STEPS


def _few(sizes: Sizes) -> bool:
    return sizes.chains * sizes.steps <= _FEW


CHAINS: Operation[int] = Operation(
    "Metropolis–Hastings chains",
    256,
    (
        Kernel(
            "triton",
            lazily("chain.fused", "fused_walk"),
            triton_refusal,
            lambda steps: steps <= _MOST_STEPS,
        ),
        Kernel("numba", lazily("chain.compiled", "compiled_walk"), numba_refusal),
        Kernel("torch", lambda: scan_walk),
        Kernel("reference", lambda: loop_walk),
    ),
)

MOVES: Operation[int] = Operation(
    "moves of chains",
    256,
    (
        Kernel(
            "triton",
            lazily("chain.fused", "fused_moves"),
            triton_refusal,
            lambda steps: steps <= _MOST_STEPS,
        ),
        Kernel("numba", lazily("chain.compiled", "compiled_moves"), numba_refusal),
        Kernel("torch", _weighed),
    ),
)

RESAMPLING: Operation[Sizes] = Operation(
    "resampling of chains",
    Sizes(512, 256),
    (
        Kernel("triton", lazily("chain.fused", "fused_resample"), triton_refusal, _fits),
        Kernel("numba", lazily("chain.resampling", "compiled_resampling"), numba_refusal, _few),
        Kernel("torch", lambda: resampled),
    ),
)

PICKING: Operation[None] = Operation(
    "entries of chains",
    None,
    (
        Kernel("triton", lazily("chain.fused", "fused_pick"), triton_refusal),
        Kernel("numpy", lambda: gathered_on_host, numpy_refusal),
        Kernel("torch", lambda: gathered),
    ),
)


@torch.no_grad()
def chain_moves(
    scores: Tensor, noise: Tensor, initial: Tensor, place: Tensor, burn_in: float
) -> Moves:
    """Walk N chains as :func:`walk` does, and weigh what each draws after the burn-in.

    Args:
        scores: As in :func:`walk`.
        noise: As in :func:`walk`.
        initial: As in :func:`walk`.
        place: ``[N]`` int64, the column that is the state which a chain comes with, else -1.
        burn_in: A share in [0, 1) of a chain's proposals, as a float, or their number. One draw
            is left where there are proposals; where there are none, the state is the draw.
    """
    moves: Moves = MOVES.kernel(scores.device, scores.shape[1])(
        scores, noise, initial, place, burn_in
    )
    return moves


@torch.no_grad()
def resample(scores: Tensor, noise: Tensor, initial: Tensor, place: Tensor) -> Moves:
    """Draw each chain's next state from the softmax over its candidates, which are the weights.

    Args:
        scores: ``[N, C]``; -inf is no candidate.
        noise: ``[N, 1 + C]``, standard Gumbel variables, the first for the state.
        initial: ``[N]``, score of the state; a candidate unless it is among the others.
        place: As in :func:`chain_moves`.
    """
    moves: Moves = RESAMPLING.kernel(scores.device, Sizes(*scores.shape))(
        scores, noise, initial, place
    )
    return moves


def pick(values: Tensor, place: Tensor, otherwise: Tensor) -> Tensor:
    """Return ``values[i, place[i]]`` ``[N]``, and ``otherwise[i]`` where ``place[i]`` is -1.

    Args:
        values: ``[N, C]``.
        place: ``[N]`` int64.
        otherwise: ``[N]`` of the same dtype.
    """
    kernel = PICKING.kernel(values.device, None)
    found: Tensor = kernel(values, place, otherwise)
    return found


@torch.no_grad()
def walk(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> Walk:
    """Walk N chains through R proposals each. Deterministic; differentiates nothing.

    Args:
        scores: ``[N, R]`` float32 or float64, logits of the proposals in their order, below 1e25
            in size and not NaN; -inf is no proposal of this chain, and no step.
        noise: ``[N, R]`` of the same dtype, independent standard exponential variables, −log u.
        initial: ``[N]`` of the same dtype, score of the state that each chain starts from; -inf
            where there is none yet, so that the first proposal is accepted.
        burn_in: ``[N]`` int64, number of a chain's first proposals that are not counted. After
            each later one the present state is counted once, repeats included.

    Raises:
        TypeError: If a dtype is another one.
        ValueError: If a shape is another one, or NEGPLUG_BACKEND names no backend that can serve.
    """
    _check(scores, noise, initial, burn_in)
    walked: Walk = CHAINS.kernel(scores.device, scores.shape[1])(scores, noise, initial, burn_in)
    return walked


def _check(scores: Tensor, noise: Tensor, initial: Tensor, burn_in: Tensor) -> None:
    if scores.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"scores must be float32 or float64, got {scores.dtype}: convert them")
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"scores must be [N, R] with R > 0, got {list(scores.shape)}")
    wanted = {
        "noise": (noise, scores.dtype, scores.shape),
        "initial": (initial, scores.dtype, scores.shape[:1]),
        "burn_in": (burn_in, torch.int64, scores.shape[:1]),
    }
    for name, (tensor, dtype, shape) in wanted.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype} beside these scores, got {tensor.dtype}")
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
