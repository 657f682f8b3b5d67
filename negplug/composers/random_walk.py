"""``random_walk(num_neighbors=k, restart=α)``: a batch is where a walk on a proximity graph leads.

Source: Yang et al., "BatchSampler: sampling mini-batches for contrastive learning in vision,
language, and graphs" (KDD 2023, arXiv:2306.03355). Of M random candidates each sample's k nearest
are its neighbours. A walk starts at a random sample; in each step it returns there with probability
α, and goes to a random neighbour of where it is otherwise. The samples that it comes by are the
batch.

M says how hard the negatives are and how many of them may be false: of N samples the neighbours of
a sample are about its N·k/M nearest. With a small α a walk goes far.

As published, walks may meet samples of earlier batches again and the rest of the data set is
trained on afterwards. Here samples of earlier batches are walked over but not taken, and a walk
that has taken none for some steps begins anew at a random sample, so that each sample is in the
epoch once and no walk is endless. The last walks of an epoch find little; the batches are shuffled,
so that these are not trained on last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from negplug.composers.neighbors import neighbors
from negplug.contract.composer import Composer, Epoch
from negplug.contract.hookspecs import ComposerSpec, hookimpl
from negplug.contract.inputs import check_integer, check_number
from negplug.kernels.random.numbers import RandomNumbers

_PATIENCE = 32
"""Steps without a new sample after which a walk begins anew."""

_DRAWN = 1 << 14
"""Random numbers at a time."""


class RandomWalk(Composer):
    """Batches of the samples that a random walk with restart comes by.

    Args:
        num_neighbors: k ≥ 1, neighbours of each sample in the graph.
        restart: α in [0, 1), the probability of a return to the start of the walk.
        num_candidates: M > k, among how many random samples neighbours are looked for; None looks
            among all, for the hardest batches.

    Raises:
        TypeError, ValueError: If an argument cannot be used.
    """

    wants_embeddings = True

    def __init__(
        self, num_neighbors: int = 100, restart: float = 0.1, num_candidates: int | None = 1000
    ) -> None:
        self.num_neighbors = check_integer("random_walk", "num_neighbors", num_neighbors, 1)
        self.restart = check_number("random_walk", "restart", restart, 0.0, 1.0)
        self.num_candidates = num_candidates
        if num_candidates is not None:
            check_integer("random_walk", "num_candidates", num_candidates, num_neighbors + 1)

    def compose(self, epoch: Epoch) -> Tensor:
        """Return the samples in the order in which the walks of the batches take them."""
        near = neighbors(epoch, self.num_neighbors, self.num_candidates)
        return torch.tensor(walked(near, epoch.batches, self.restart, epoch.random))


def walked(near: Any, sizes: Sequence[int], restart: float, random: RandomNumbers) -> list[int]:
    """Return all samples in the order in which walks take them.

    Args:
        near: ``[n, k]`` integers, the neighbours of each sample.
        sizes: The size of each batch; a walk ends with its batch.
        restart: α.
        random: Where to draw from.
    """
    size, count = near.shape
    if not count:
        return list(range(size))
    draws = _draws(count, random)
    taken = bytearray(size)
    untaken = (place for place in range(size) if not taken[place])
    order: list[int] = []
    for batch in sizes:
        full = min(len(order) + batch, size)
        idle = _PATIENCE
        here = start = 0
        while len(order) < full:
            if idle == _PATIENCE:
                here = start = next(untaken)
            else:
                number, coin = next(draws)
                here = start if coin < restart else int(near[here, number])
            if taken[here]:
                idle += 1
            else:
                taken[here], idle = 1, 0
                order.append(here)
    return order


def _draws(count: int, random: RandomNumbers) -> Iterator[tuple[int, float]]:
    """Yield a number below ``count`` and one in (0, 1), again and again."""
    while True:
        coins = random.uniform(_DRAWN).tolist()
        yield from zip(random.integers(count, _DRAWN).tolist(), coins, strict=True)


@hookimpl
def negplug_composers() -> Iterable[ComposerSpec]:
    """Offer ``random_walk``."""
    yield ComposerSpec(
        "random_walk",
        RandomWalk,
        "batches of neighbours, by random walks on a proximity graph",
        "Yang et al. 2023, arXiv:2306.03355",
    )
