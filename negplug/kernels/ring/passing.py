"""Blocks of rows that go around a ring of ranks, and gradients that go around with them.

Rank r receives from rank r − 1 and sends to rank r + 1, so at turn t it has the block of rank
r − t. A transfer begins before the present block is computed with, and ends after it. All ranks
begin the same transfers in the same order. Autograd is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from negplug.kernels.distributed import rank


def circulating(
    rows: Tensor, names: Tensor, sizes: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every rank's rows and names, this rank's first, each while the next one arrives.

    Each is the caller's until the next is asked for, whose successor then arrives in its place.

    Args:
        rows: This rank's, ``[n, d]``.
        names: ``[n]`` int64.
        sizes: The number of rows of every rank.
    """
    world, most = len(sizes), max(sizes)
    rows, names = rows.contiguous(), names.contiguous()
    room = [(rows.new_empty(most, rows.shape[1]), names.new_empty(most)) for _ in range(2)]
    for turn in range(world - 1):
        size = sizes[(rank() - turn - 1) % world]
        arriving = [each[:size] for each in room[turn % 2]]
        transfers = _transfer((rows, names), arriving)
        yield rows, names
        _finish(transfers)
        rows, names = arriving
    yield rows, names


class Returning:
    """The gradient of each block, which goes around with it and comes home.

    Args:
        rows: This rank's rows ``[n, d]``.
        sizes: The number of rows of every rank.
    """

    def __init__(self, rows: Tensor, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._room = rows.new_empty(max(sizes), rows.shape[1])
        self._turn = 0
        self._sent: Tensor | None = None
        self._transfers: list[Any] = []

    def add(self, own: Tensor) -> None:
        """Add this rank's terms to the gradient of the present block, and pass it on.

        Args:
            own: ``[n, d]`` of the block; is written to.
        """
        if self._turn:
            own += self._arrived()
        self._turn += 1
        self._sent = own.contiguous()
        self._transfers = _transfer([self._sent], [self._room[: self._size()]])

    def home(self) -> Tensor:
        """Return the gradient of this rank's rows once all ranks have added to it."""
        return self._arrived()

    def _arrived(self) -> Tensor:
        _finish(self._transfers)
        self._sent = None
        return self._room[: self._size()]

    def _size(self) -> int:
        """Return the number of rows of the block that arrives."""
        return self._sizes[(rank() - self._turn) % len(self._sizes)]


def _transfer(sent: Sequence[Tensor], received: Sequence[Tensor]) -> list[Any]:
    """Begin to send tensors to the next rank and to receive others from the one before."""
    own, world = dist.get_rank(), dist.get_world_size()
    onwards = [dist.P2POp(dist.isend, tensor, (own + 1) % world) for tensor in sent]
    arriving = [dist.P2POp(dist.irecv, tensor, (own - 1) % world) for tensor in received]
    transfers: list[Any] = dist.batch_isend_irecv([*onwards, *arriving])
    return transfers


def _finish(transfers: list[Any]) -> None:
    """Let what follows on the device, or on the CPU the host, wait for transfers."""
    while transfers:
        transfers.pop().wait()
