"""Walks of chains to compare kernels on, and the loop that they are compared with."""

from __future__ import annotations

import math

import torch

from negplug.kernels.chain import Walk


def naive_walk(scores, noise, initial, burn_in):
    """One chain after the other, one proposal after the other."""
    chains, steps = scores.shape
    counts = scores.new_zeros(chains, steps)
    stayed = scores.new_zeros(chains)
    last = torch.full((chains,), -1)
    accepted = scores.new_zeros(chains)
    thresholds = scores + noise
    for i in range(chains):
        current, seen = initial[i].item(), 0
        for j in range(steps):
            if scores[i, j] == -math.inf:
                continue
            seen += 1
            if thresholds[i, j].item() > current:
                current = scores[i, j].item()
                last[i] = j
                accepted[i] += 1
            if seen > burn_in[i]:
                if last[i] < 0:
                    stayed[i] += 1
                else:
                    counts[i, last[i]] += 1
    return Walk(counts, stayed, last, accepted)


def inputs(chains, steps, seed, dtype=torch.float32, scale=3.0, masked=0.2, ties=False):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": dtype}
    scores = scale * torch.randn(chains, steps, **draw)
    noise = torch.empty(chains, steps, dtype=dtype).exponential_(generator=generator)
    initial = scale * torch.randn(chains, **draw)
    if ties:
        # Whole numbers, and noise of zero among them: scores, thresholds and states coincide.
        scores, noise, initial = scores.round(), noise.floor(), initial.round()
    scores[torch.rand(chains, steps, generator=generator) < masked] = -torch.inf
    # Every third chain visits for the first time; ragged masks include chains of nothing.
    initial[::3] = -torch.inf
    scores[1::4] = -torch.inf
    burn_in = torch.randint(0, steps + 2, (chains,), generator=generator)
    burn_in[::2] = 0
    return scores, noise, initial, burn_in


def assert_equal(found, wanted):
    for name, theirs, own in zip(Walk._fields, found, wanted, strict=True):
        assert theirs.dtype == own.dtype, name
        assert torch.equal(theirs, own), name


CASES = [
    {},
    {"dtype": torch.float64},
    {"scale": 1e3},  # similarities at temperature 1e-3
    {"scale": 1e3, "dtype": torch.float64},
    {"scale": 1e-6},
    {"scale": 1e20},
    {"ties": True},
    {"masked": 0.0},
    {"masked": 0.9},
]
SIZES = [(1, 1), (1, 7), (2, 2), (5, 3), (3, 17), (13, 64), (9, 129)]
