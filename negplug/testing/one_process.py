"""Several ranks in one process: the reference that real ranks are compared with.

Every rank has a sampler of its own, and its batch knows everybody's keys already, with one graph
through all of them. What the ranks' losses add up to is then plain autograd. A sampler can be
played like this if it talks to other ranks through ``batch.gathered()`` and
``batch.of_all_ranks()`` alone, and draws from ``self.random(batch)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from negplug.contract.attraction import attracting
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.draws import Draws
from negplug.contract.gathering import GATHERED, Gathering
from negplug.contract.rows import Rows
from negplug.loss.contrastive import ContrastiveLoss


@dataclass(frozen=True, eq=False)
class PlayedBatch(ContrastiveBatch):
    """One rank's batch, with everybody's keys at hand.

    Attributes:
        everywhere: The batch as :meth:`gathered` returns it on this rank.
        sizes: Number of anchors of each rank.
        boards: What each exchange has gathered so far, the same list for all ranks.
    """

    everywhere: ContrastiveBatch | None = None
    sizes: tuple[int, ...] = ()
    boards: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def gathered(self) -> ContrastiveBatch:
        """Return the batch with everybody's keys."""
        assert self.everywhere is not None
        self.context.memo["gathered"] = self.everywhere
        return self.everywhere

    def of_all_ranks(self, values: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        """Return a board that is full once every rank has written its part, before any update."""
        number = self.context.memo.get("exchanges", 0)
        self.context.memo["exchanges"] = number + 1
        if number == len(self.boards):
            total = sum(self.sizes)
            board = values.new_empty(total), names.new_empty(len(names), total)
            self.boards.append(board)
        first = sum(self.sizes[: self.context.draws.rank])
        board_values, board_names = self.boards[number]
        board_values[first : first + len(values)] = values.detach()
        board_names[:, first : first + len(values)] = names
        return board_values, board_names


def played(batches: list[ContrastiveBatch]) -> list[PlayedBatch]:
    """Turn the ranks' batches, whose ids must be data set indexes, into ones that are gathered."""
    keys = replace(Rows.joined([batch.keys for batch in batches]), name=GATHERED)
    first, found = 0, []
    sizes = tuple(len(batch.anchors) for batch in batches)
    boards: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        token = keys.embeddings.new_zeros(())
        everywhere = replace(
            batch,
            keys=keys,
            positives=batch.positives.where(batch.positives < 0, batch.positives + first),
            self_columns=None if batch.self_columns is None else batch.self_columns + first,
            gathering=Gathering(first, len(batch.keys), token),
        )
        own = {field.name: getattr(batch, field.name) for field in fields(ContrastiveBatch)}
        found.append(PlayedBatch(**own, everywhere=everywhere, sizes=sizes, boards=boards))
        first += len(batch.keys)
    return found


def mean_loss(losses: list[ContrastiveLoss], batches: list[ContrastiveBatch], step: int) -> Tensor:
    """Return what DDP's average over the ranks stands for.

    With gathered keys it is the mean over all anchors that have a positive, otherwise the mean of
    the ranks' means. Pending updates stay with each sampler until its ``flush()``.

    Args:
        losses: One for each rank.
        batches: One for each rank.
        step: Number of the training step, for the draws.
    """
    sums, paying, ties = [], [], []
    for rank, (loss, batch) in enumerate(zip(losses, played(batches), strict=True)):
        seed = loss.get_extra_state()["seed"]
        tau = loss.temperature
        assert isinstance(tau, float)
        inside = batch.within(Draws(seed, step, 0, rank), tau)
        negatives = loss.sampler(inside)
        sums.append(loss.objective(attracting(inside, negatives), negatives, tau).sum())
        paying.append((inside.positives >= 0).any(1).sum())
        ties.append(inside.tie is not None)
    assert all(ties) or not any(ties), "some ranks gather and others do not, and would hang"
    if any(ties):
        return torch.stack(sums).sum() / torch.stack(paying).sum()
    return (torch.stack(sums) / torch.stack(paying)).mean()
