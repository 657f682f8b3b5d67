"""What a training step knows: anchors, keys, and who is whom.

An *anchor* is a row that pays a loss, a *key* a row that it may be compared with. Identity is
carried by ids: a key with the anchor's id is the anchor itself, another view of it, or another
positive, and so never its negative. Ids make the exclusion cheap everywhere (a comparison per
tile, a binary search per draw) without a dense mask.

Where the data set indexes of the samples are known they are the ids, so that a key of an earlier
step is recognised. Otherwise ids number the samples of this batch, unique over the ranks, from -3
downwards: ids from 0 upwards mean the same in every step, others last no longer than their batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from negplug.contract.dataset import DatasetAccess
from negplug.contract.draws import Draws
from negplug.contract.ids import BEYOND, UNKNOWN, columns_with_same_id, or_unknown
from negplug.contract.inputs import check_views, per_sample
from negplug.contract.negatives import Negatives
from negplug.kernels.distributed import gather_rows, rank, world_size
from negplug.kernels.unit import unit_rows


@dataclass(frozen=True, eq=False)
class ContrastiveBatch:
    """Anchors and keys of one loss call.

    Attributes:
        anchors: ``[N, d]`` float32 or float64, rows of unit length.
        keys: ``[K, d]``, likewise. The same tensor object as ``anchors`` where the loss is
            symmetric, which the arithmetic exploits.
        anchor_ids: ``[N]`` int64; -1 is unknown and equals nothing, so an anchor that is itself
            among the keys needs an id.
        key_ids: ``[K]`` int64.
        positives: ``[N, P]`` int64, key columns of each anchor's positives, padded with -1.
        self_columns: ``[N]`` int64, the key column that is the anchor itself; None where the
            keys hold no anchor (momentum keys).
        indexes: ``[N]`` int64, data set index of each anchor, if the recipe knows it.
        labels: ``[N]`` int64, metadata of each anchor, -1 = none.
        key_indexes: ``[K]`` int64, data set index of each key, if known.
        key_labels: ``[K]`` int64, metadata of each key, -1 = none.
        key_views: ``[K]`` int64, the view that each key comes from, where known.
        unindexed: Why ``indexes`` is None, for messages.
        own_keys: Which keys are this rank's; all of them unless they were gathered.
        queue: ``[Q, d]`` rows of unit length without gradient: the host's own queue, where the
            host compares the anchors with that alone and not with keys of the batch (ReSSL).
        token: Zero that ties the loss to the keys' gathering; None if the keys are this rank's.
        draws: Counters for random draws.
        temperature: τ of the loss, for samplers that draw from its softmax.
        dataset: What the run can say of the data set that ``indexes`` count.
    """

    anchors: Tensor
    keys: Tensor
    anchor_ids: Tensor
    key_ids: Tensor
    positives: Tensor
    self_columns: Tensor | None = None
    indexes: Tensor | None = None
    labels: Tensor | None = None
    key_indexes: Tensor | None = None
    key_labels: Tensor | None = None
    key_views: Tensor | None = None
    unindexed: str = ""
    own_keys: slice = field(default_factory=lambda: slice(None))
    queue: Tensor | None = None
    token: Tensor | None = None
    draws: Draws = field(default_factory=Draws)
    temperature: float = 1.0
    dataset: DatasetAccess = field(default_factory=DatasetAccess)
    training: bool = field(init=False)
    """Whether a backward pass can follow, so that this call counts as training."""
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    """What was computed for this very batch: the gathered one, and each sampler's negatives."""

    def __post_init__(self) -> None:
        # Now: a sampler may look at it inside torch.no_grad().
        learns = self.anchors.requires_grad or self.keys.requires_grad
        object.__setattr__(self, "training", torch.is_grad_enabled() and learns)

    @classmethod
    def from_views(
        cls,
        views: tuple[Tensor, ...],
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
        unindexed: str = "",
    ) -> ContrastiveBatch:
        """Build the batch of a symmetric loss: every view of every sample is anchor and key.

        Args:
            views: V tensors ``[B, d]``; row b of each view comes from sample b.
            indexes: ``[B]`` data set indexes. A sample that is in the batch twice is then not
                its own negative.
            labels: ``[B]`` integer metadata.
            unindexed: Why ``indexes`` is None.

        Returns:
            A batch of N = V·B anchors, the keys being the anchors, view after view.

        Raises:
            ValueError, TypeError: If a view, ``indexes`` or ``labels`` cannot be used; the
                message names it.
        """
        check_views(views)
        count, size = len(views), views[0].shape[0]
        device = views[0].device
        z = unit_rows(*views)
        row = torch.arange(count * size, device=device)
        shifts = size * torch.arange(1, count, device=device)
        indexes = per_sample("indexes", indexes, size, count, device, least=0)
        labels = per_sample("labels", labels, size, count, device)
        ids = _of_this_batch(row % size) if indexes is None else indexes
        return cls(
            anchors=z,
            keys=z,
            anchor_ids=ids,
            key_ids=ids,
            positives=(row[:, None] + shifts) % (count * size),
            self_columns=row,
            indexes=indexes,
            labels=labels,
            key_indexes=indexes,
            key_labels=labels,
            key_views=row // size,
            unindexed=unindexed,
        )

    @classmethod
    def from_pairs(
        cls,
        queries: Tensor,
        keys: Tensor,
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
        unindexed: str = "",
    ) -> ContrastiveBatch:
        """Build the batch of a one-directional loss: query b against key b and other keys (MoCo).

        Args:
            queries: ``[B, d]``, the anchors.
            keys: ``[B, d]``; row b is the positive of query b.
            indexes: ``[B]`` data set indexes.
            labels: ``[B]`` integer metadata.
            unindexed: Why ``indexes`` is None.

        Raises:
            ValueError, TypeError: As :meth:`from_views`.
        """
        check_views((queries, keys))
        size, device = len(queries), queries.device
        row = torch.arange(size, device=device)
        indexes = per_sample("indexes", indexes, size, 1, device, least=0)
        labels = per_sample("labels", labels, size, 1, device)
        ids = _of_this_batch(row) if indexes is None else indexes
        return cls(
            anchors=unit_rows(queries),
            keys=unit_rows(keys),
            anchor_ids=ids,
            key_ids=ids,
            positives=row[:, None],
            indexes=indexes,
            labels=labels,
            key_indexes=indexes,
            key_labels=labels,
            key_views=torch.zeros_like(row),
            unindexed=unindexed,
        )

    @classmethod
    def from_ids(
        cls,
        anchors: Tensor,
        anchor_ids: Tensor,
        keys: Tensor | None = None,
        key_ids: Tensor | None = None,
        self_columns: Tensor | None = None,
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
        unindexed: str = "",
        *,
        lasting: bool = False,
        gather: bool = False,
    ) -> ContrastiveBatch:
        """Build a batch whose positives are the other keys with the anchor's id.

        This is the form of supervised contrast (ids are labels) and of multi-crop batches.

        Args:
            anchors: ``[N, d]`` rows of unit length.
            anchor_ids: ``[N]`` integers.
            keys: ``[K, d]``; the anchors themselves if None.
            key_ids: ``[K]``; needed with ``keys``.
            self_columns: ``[N]``; needed if ``keys`` hold the anchors.
            indexes: ``[N]`` data set indexes.
            labels: ``[N]`` integer metadata.
            unindexed: Why ``indexes`` is None.
            lasting: Whether ids, from 0 upwards, mean the same on every rank and in every step;
                otherwise they number the samples of this batch.
            gather: Whether the keys are those of all ranks; positives are found there too.
        """
        row = torch.arange(len(anchors), device=anchors.device)
        anchor_ids = anchor_ids if lasting else _of_this_batch(anchor_ids)
        own_keys = keys is None or key_ids is None
        if keys is None or key_ids is None:
            self_columns = row
            # An unknown anchor has no positives, but it is still itself: give it its own id.
            anchor_ids = anchor_ids.where(anchor_ids != UNKNOWN, _of_this_batch(row) - 1)
            keys, key_ids = anchors, anchor_ids
        elif not lasting:
            key_ids = _of_this_batch(key_ids)
        batch = cls(
            anchors=anchors,
            keys=keys,
            anchor_ids=anchor_ids,
            key_ids=key_ids,
            positives=anchor_ids.new_full((len(anchors), 1), -1),
            self_columns=self_columns,
            indexes=indexes,
            labels=labels,
            key_indexes=indexes if own_keys else None,
            key_labels=labels if own_keys else None,
            unindexed=unindexed,
        )
        if gather:
            batch = batch.gathered()
        same, _ = columns_with_same_id(anchor_ids, batch.key_ids)
        padded = same == BEYOND
        if batch.self_columns is not None:
            padded |= same == batch.self_columns[:, None]
        return replace(batch, positives=same.masked_fill(padded, -1))

    @property
    def first_step(self) -> bool:
        """Whether this is the first training step, whose batch is taken for a full one."""
        return self.training and self.draws.step == 0

    @property
    def tie(self) -> Tensor | None:
        """The token of the keys' gathering, whoever asked for it; None if there was none."""
        gathered: ContrastiveBatch = self.memo.get("gathered", self)
        return gathered.token

    def all_keys(self) -> Negatives:
        """Return the whole batch as a pool; an anchor's own keys are excluded by id."""
        return Negatives(
            pool=self.keys,
            pool_ids=self.key_ids,
            pool_indexes=self.key_indexes,
            pool_labels=self.key_labels,
        )

    def excluded_pairs(self, pool_ids: Tensor) -> tuple[Tensor, Tensor]:
        """List the pairs of anchors and rows of a pool that the rule of exclusion forbids.

        Looked up once for a batch and a pool, however many ask.

        Args:
            pool_ids: ``[K]`` int64.

        Returns:
            Anchors ``[P]`` and columns ``[P]`` int64.
        """
        if ("excluded", id(pool_ids)) not in self.memo:
            columns, _ = columns_with_same_id(self.anchor_ids, pool_ids)
            anchor, slot = (columns != BEYOND).nonzero(as_tuple=True)
            self.remember_pairs(pool_ids, anchor, columns[anchor, slot])
        _, anchor, column = self.memo["excluded", id(pool_ids)]
        return anchor, column

    def remember_pairs(self, pool_ids: Tensor, anchor: Tensor, column: Tensor) -> None:
        """Let :meth:`excluded_pairs` return these, which were found in a quicker way."""
        # With the tensor, so that no other one gets its name.
        self.memo["excluded", id(pool_ids)] = pool_ids, anchor, column

    def gathered(self) -> ContrastiveBatch:
        """Return this batch with every rank's keys, in rank order.

        The anchors stay this rank's. Gathered once per batch, however many samplers ask; the
        batch itself in one process, and if its keys are gathered already.
        """
        if world_size() == 1 or self.token is not None:
            return self
        if "gathered" not in self.memo:
            self.memo["gathered"] = self._gather()
        gathered: ContrastiveBatch = self.memo["gathered"]
        return gathered

    @torch.no_grad()
    def of_all_ranks(self, values: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        """Return what every rank knows of its anchors, in rank order, without gradient.

        Args:
            values: ``[N]``, of the type of the anchors.
            names: ``[c, N]`` int64.
        """
        if world_size() == 1:
            return values.detach(), names
        everyones = gather_rows(values.detach()[:, None], names)
        return everyones.rows[:, 0], everyones.names

    def _gather(self) -> ContrastiveBatch:
        beside = (self.key_ids, self.key_indexes, self.key_labels, self.key_views)
        names = torch.stack([or_unknown(name, self.key_ids) for name in beside])
        keys, names, first, token = gather_rows(self.keys, names)
        known = [None if name is None else names[n] for n, name in enumerate(beside)]
        return replace(
            self,
            keys=keys,
            key_ids=names[0],
            positives=self.positives.where(self.positives < 0, self.positives + first),
            self_columns=None if self.self_columns is None else self.self_columns + first,
            key_indexes=known[1],
            key_labels=known[2],
            key_views=known[3],
            own_keys=slice(first, first + len(self.keys)),
            token=token,
        )

    def detach(self) -> ContrastiveBatch:
        """Return the batch without its graph, for updates after the backward pass."""
        anchors = self.anchors.detach()
        keys = anchors if self.keys is self.anchors else self.keys.detach()
        token = None if self.token is None else self.token.detach()
        dataset = DatasetAccess(self.dataset.size)
        return replace(self, anchors=anchors, keys=keys, token=token, dataset=dataset)


def _of_this_batch(numbers: Tensor) -> Tensor:
    """Turn numbers of samples into ids: odd, unique over ranks with batches of any size."""
    ids = -3 - 2 * (numbers * world_size() + rank())
    return torch.where(numbers == UNKNOWN, UNKNOWN, ids)
