"""``clustered()``: an order of the data set in which similar samples are beside each other.

Source: Sachidananda et al., "Global contrastive batch sampling via optimization on sample
permutations" (ICML 2023, arXiv:2210.12874). The gap between the loss over the batch and the loss
over the whole data set is bounded by the similarities that no batch holds. To make it small is to
find a permutation that brings the large entries of the similarity matrix near its diagonal, a
bandwidth problem, which the reverse Cuthill–McKee order solves approximately (Cuthill & McKee 1969;
George 1971): breadth first from a sample of low degree, neighbours in order of their degree.

The matrix keeps each sample's k largest similarities, in both directions, where the paper keeps
those above a quantile of all: so no sample is without neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from negplug.composers.neighbors import neighbors
from negplug.contract.composer import Composer, Epoch
from negplug.contract.hookspecs import ComposerSpec, hookimpl
from negplug.contract.inputs import check_integer


class Clustered(Composer):
    """Batches of similar samples, by an order of small bandwidth.

    Args:
        num_neighbors: k ≥ 1, similarities of each sample that count.
        num_candidates: Among how many random samples they are looked for, more than k; None looks
            among all, which takes N²·d multiplications in each epoch.

    Raises:
        TypeError, ValueError: If an argument cannot be used.
    """

    wants_embeddings = True

    def __init__(self, num_neighbors: int = 10, num_candidates: int | None = None) -> None:
        self.num_neighbors = check_integer("clustered", "num_neighbors", num_neighbors, 1)
        self.num_candidates = num_candidates
        if num_candidates is not None:
            check_integer("clustered", "num_candidates", num_candidates, num_neighbors + 1)

    def compose(self, epoch: Epoch) -> Tensor:
        """Return the reverse Cuthill–McKee order of the samples."""
        near = neighbors(epoch, self.num_neighbors, self.num_candidates)
        return torch.tensor(reverse_cuthill_mckee(near), dtype=torch.int64)


def reverse_cuthill_mckee(near: Any) -> list[int]:
    """Return an order of small bandwidth.

    Args:
        near: ``[n, k]`` integers: the neighbours of each row, which are taken to be mutual.
    """
    size, count = near.shape
    own = np.repeat(np.arange(size), count)
    other = near.reshape(-1).astype(np.int64)
    edges = np.concatenate([own * size + other, other * size + own])
    edges.sort()
    rows, columns = edges // size, edges % size
    there = (rows != columns) & (
        np.diff(edges, prepend=-1) != 0
    )  # each pair once, none with itself
    rows, columns = rows[there], columns[there]
    degree = np.bincount(rows, minlength=size)
    adjacent = columns[np.lexsort((degree[columns], rows))].tolist()
    bounds = np.concatenate([[0], degree.cumsum()]).tolist()
    seen = bytearray(size)
    order: list[int] = []
    for start in np.argsort(degree, kind="stable").tolist():
        if seen[start]:
            continue
        seen[start] = 1
        reached = len(order)
        order.append(start)
        while reached < len(order):
            here = order[reached]
            reached += 1
            for place in adjacent[bounds[here] : bounds[here + 1]]:
                if not seen[place]:
                    seen[place] = 1
                    order.append(place)
    return order[::-1]


@hookimpl
def negplug_composers() -> Iterable[ComposerSpec]:
    """Offer ``clustered``."""
    yield ComposerSpec(
        "clustered",
        Clustered,
        "batches of similar samples, by a permutation of small bandwidth",
        "Sachidananda et al. 2023, arXiv:2210.12874",
    )
