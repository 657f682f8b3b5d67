"""The proximity graph: each sample's nearest neighbours among some candidates."""

from __future__ import annotations

from typing import Any

import torch

from negplug.contract.composer import Epoch
from negplug.kernels.nearest import nearest_columns

_BLOCK = 1024
"""Samples that share their candidates."""


def neighbors(epoch: Epoch, count: int, candidates: int | None) -> Any:
    """Return the neighbours of each sample, nearest first.

    Args:
        epoch: Has the embeddings of n samples.
        count: k, how many each has; fewer where there are not as many candidates.
        candidates: M, among how many random samples neighbours are looked for, another draw for
            each block of samples; None looks among all.

    Returns:
        An array ``[n, ≤ k]`` of int32: places in ``epoch.samples``. A sample that has too few
        neighbours is its own.
    """
    rows = epoch.embeddings
    assert rows is not None
    size, device = len(rows), rows.device
    width = size if candidates is None else min(candidates, size)
    count = min(count, width - 1)
    if count < 1:
        return torch.empty(size, 0, dtype=torch.int32, device="cpu").numpy()
    places = torch.arange(size, device=device)
    starts = epoch.random.integers(size, -(-size // _BLOCK)).tolist()
    parts = []
    for block, start in zip(torch.split(places, _BLOCK), starts, strict=True):
        # The samples are in random order, so that any that follow one another are a random draw.
        drawn = places if width == size else (places[:width] + start) % size
        found, there = nearest_columns(rows[block], rows[drawn], block, drawn, count)
        near = drawn[found]
        near = near if there is None else near.where(there, block[:, None])
        parts.append(near.to("cpu", torch.int32))
    return torch.cat(parts).numpy()
