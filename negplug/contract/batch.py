"""What a training step knows: anchors, keys, and who is whom.

An *anchor* is a row that has a loss of its own, a *key* a row that it may be compared with. Ids
make the exclusion of an anchor's own keys cheap everywhere (a comparison per tile, a binary search
per draw) without a dense mask.

Where the data set indexes of the samples are known they are the ids, so that a key of an earlier
step is recognised. Otherwise ids number the samples of this batch, unique over the ranks, from -3
downwards: ids from 0 upwards mean the same in every step, others last no longer than their batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from negplug.contract.context import StepContext
from negplug.contract.dataset import DatasetAccess
from negplug.contract.draws import Draws
from negplug.contract.gathering import Gathering, gather_keys
from negplug.contract.ids import UNKNOWN, columns_of_others, of_this_batch
from negplug.contract.inputs import check_views, finite_unit_rows, indexes_per_row, labels_per_row
from negplug.contract.layout import layout_of
from negplug.contract.negatives import Negatives
from negplug.contract.rows import ANCHORS, KEYS, Rows
from negplug.kernels.distributed import gather_rows, world_size


@dataclass(frozen=True, eq=False)
class ContrastiveBatch:
    """Anchors and keys of one loss call.

    Attributes:
        anchors: N rows.
        keys: K rows; the very anchors where the loss is symmetric, which the arithmetic exploits.
        positives: ``[N, P]`` int64, key columns of each anchor's positives, padded with -1.
        self_columns: ``[N]`` int64, the key column that is the anchor itself; None if the keys
            do not contain the anchors (momentum keys).
        host_queue: The host's own queue, if the host compares the anchors with it only and not
            with keys of the batch (ReSSL).
        unindexed: Why the anchors have no data set indexes, as a clause for messages.
        unlabeled: Why they have no labels, as a clause for messages.
        gathering: How the keys of all ranks came together; None if the keys are this rank's.
        unpadded: The same object as ``positives`` if it is known to have no padding.
        context: What surrounds the call; made where none is given.
    """

    anchors: Rows
    keys: Rows
    positives: Tensor
    self_columns: Tensor | None = None
    host_queue: Rows | None = None
    unindexed: str = ""
    unlabeled: str = ""
    gathering: Gathering | None = None
    unpadded: Tensor | None = None
    context: StepContext = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.context is None:
            # Now: a sampler may look at it inside torch.no_grad().
            learns = self.anchors.embeddings.requires_grad or self.keys.embeddings.requires_grad
            context = StepContext(training=torch.is_grad_enabled() and learns)
            object.__setattr__(self, "context", context)

    def within(
        self,
        draws: Draws | None = None,
        temperature: float | None = None,
        dataset: DatasetAccess | None = None,
        training: bool | None = None,
        epoch: int | None = None,
        turn: int | None = None,
    ) -> ContrastiveBatch:
        """Return the batch with another context and an empty memo; None keeps a value."""
        given = draws, temperature, dataset, training, epoch, turn
        return replace(self, context=self.context.changed(*given))

    @property
    def temperature(self) -> float:
        """τ of the loss."""
        return self.context.temperature

    @property
    def training(self) -> bool:
        """Whether this call counts as training."""
        return self.context.training

    @property
    def padded(self) -> bool:
        """Whether an anchor may have fewer than P positives; read without a wait for the device."""
        # By identity: whoever replaces the positives need not know of the other field.
        return self.positives is not self.unpadded

    @property
    def first_step(self) -> bool:
        """Whether this is the first training step. Its batch counts as a full one."""
        step = self.context.draws.step
        return self.training and isinstance(step, int) and step == 0

    @property
    def tie(self) -> Tensor | None:
        """A zero that ties the loss to the keys that ranks exchanged; None if there were none."""
        gathering: Gathering | None = self.context.memo.get("gathered", self).gathering
        token: Tensor | None = self.context.memo.get("token")
        own = None if gathering is None else gathering.token
        return token if own is None else own if token is None else own + token

    @classmethod
    def from_views(
        cls,
        views: tuple[Tensor, ...],
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
        unindexed: str = "",
        unlabeled: str = "",
    ) -> ContrastiveBatch:
        """Build the batch of a symmetric loss: every view of every sample is anchor and key.

        Args:
            views: V tensors ``[B, d]``; row b of each view comes from sample b.
            indexes: ``[B]`` data set indexes. A sample that is in the batch twice is then not
                its own negative.
            labels: ``[B]`` or any other form of :func:`negplug.contract.labels.as_labels`.
            unindexed: Why ``indexes`` is None.
            unlabeled: Why ``labels`` is None.

        Returns:
            A batch of N = V·B anchors, the keys being the anchors, view after view.

        Raises:
            ValueError, TypeError: If something given cannot be used; the message names it.
        """
        check_views(views)
        count, size, device = len(views), views[0].shape[0], views[0].device
        z = finite_unit_rows(*views)
        indexes = indexes_per_row(indexes, size, count, device)
        labels = labels_per_row(labels, size, count, device)
        row, ids, of_view, positives = layout_of(count, size, z)
        ids = ids if indexes is None else indexes
        keys = Rows(z, ids, indexes, labels, of_view, count, KEYS, identified=ids)
        return cls(keys, keys, positives, row, None, unindexed, unlabeled, unpadded=positives)

    @classmethod
    def from_pairs(
        cls,
        queries: Tensor,
        keys: Tensor,
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
        unindexed: str = "",
        unlabeled: str = "",
        names: tuple[str, ...] = (),
    ) -> ContrastiveBatch:
        """Build the batch of a one-directional loss: query b against key b and other keys (MoCo).

        Args:
            queries: ``[B, d]``, the anchors.
            keys: ``[B, d]``; row b is the positive of query b.
            indexes: ``[B]`` data set indexes.
            labels: ``[B]`` or any other form of :func:`negplug.contract.labels.as_labels`.
            unindexed: Why ``indexes`` is None.
            unlabeled: Why ``labels`` is None.
            names: What messages call queries and keys; z0 and z1 by default.

        Raises:
            ValueError, TypeError: As :meth:`from_views`.
        """
        check_views((queries, keys), names)
        size, device = len(queries), queries.device
        own_rows = finite_unit_rows(queries, names=names[:1])
        rows = own_rows, finite_unit_rows(keys, first=1, names=names[1:])
        indexes = indexes_per_row(indexes, size, 1, device)
        labels = labels_per_row(labels, size, 1, device)
        _, ids, views, positives = layout_of(1, size, rows[0])
        ids = ids if indexes is None else indexes
        own = Rows(rows[0], ids, indexes, labels, views, 1, ANCHORS, identified=ids)
        others = Rows(rows[1], ids, indexes, labels, views, 1, KEYS, identified=ids)
        return cls(own, others, positives, None, None, unindexed, unlabeled, unpadded=positives)

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
        unlabeled: str = "",
        *,
        lasting: bool = False,
        gather: bool = False,
        num_views: int | None = None,
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
            unlabeled: Why ``labels`` is None.
            lasting: Whether ids, from 0 upwards, mean the same on every rank and in every step;
                otherwise they number the samples of this batch.
            gather: Whether the keys are those of all ranks; positives are found there too.
            num_views: V, if the anchors lie view after view, N/V rows each.
        """
        row = torch.arange(len(anchors), device=anchors.device)
        anchor_ids = anchor_ids if lasting else of_this_batch(anchor_ids)
        if keys is None or key_ids is None:
            self_columns = row
            # An unknown anchor has no positives, but it is still itself: give it its own id.
            anchor_ids = anchor_ids.where(anchor_ids != UNKNOWN, of_this_batch(row) - 1)
            ids, views = anchor_ids, row // (len(row) // num_views) if num_views else None
            of_keys = own = Rows(anchors, ids, indexes, labels, views, num_views, KEYS, ids)
        else:
            own = Rows(anchors, anchor_ids, indexes, labels, name=ANCHORS)
            of_keys = Rows(keys, key_ids if lasting else of_this_batch(key_ids), name=KEYS)
        none = anchor_ids.new_full((len(anchors), 1), -1)
        batch = cls(own, of_keys, none, self_columns, unindexed=unindexed, unlabeled=unlabeled)
        if gather:
            batch = batch.gathered()
        others = columns_of_others(anchor_ids, batch.keys.ids, batch.self_columns)
        return replace(batch, positives=others)

    def all_keys(self) -> Negatives:
        """Return all keys as negatives; an anchor's own are excluded by id."""
        return Negatives(self.keys)

    def gathered(self) -> ContrastiveBatch:
        """Return this batch with every rank's keys, in rank order; the anchors stay this rank's.

        Keys are gathered once per call, however many samplers ask. In one process, or if the keys
        are gathered already, this is the batch itself.
        """
        if world_size() == 1 or self.gathering is not None:
            return self
        if "gathered" not in self.context.memo:
            self.context.memo["gathered"] = self._gather()
        gathered: ContrastiveBatch = self.context.memo["gathered"]
        return gathered

    @property
    def own_keys(self) -> slice:
        """Which keys are this rank's; all of them unless they were gathered."""
        return slice(None) if self.gathering is None else self.gathering.own

    def place_of(self, rows: Rows) -> tuple[str, int]:
        """Return the name of the pool that holds ``rows``, and where in it they begin.

        If a sampler has gathered, this rank's keys are a part of the gathered ones. This does not
        gather by itself, which would be a needless collective.
        """
        everywhere: ContrastiveBatch | None = self.context.memo.get("gathered")
        if everywhere is None or everywhere.gathering is None or not rows.same_as(self.keys):
            return rows.name, 0
        return everywhere.keys.name, everywhere.gathering.first

    def of_all_ranks(self, values: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        """Return what every rank knows of its anchors, in rank order, without gradient.

        Args:
            values: ``[N]`` or ``[N, c]``, of the type of the anchors.
            names: ``[c, N]`` int64.
        """
        if world_size() == 1:
            return values.detach(), names
        everyones = gather_rows(values.detach().view(len(values), -1), names)
        return everyones.rows.view(-1, *values.shape[1:]), everyones.names

    def _gather(self) -> ContrastiveBatch:
        keys, gathering = gather_keys(self.keys)
        first, own = gathering.first, self.self_columns
        shifted = self.positives + first
        positives = self.positives.where(self.positives < 0, shifted) if self.padded else shifted
        return replace(
            self,
            keys=keys,
            positives=positives,
            self_columns=None if own is None else own + first,
            gathering=gathering,
            unpadded=None if self.padded else positives,
            context=replace(self.context, memo={}),
        )

    def detach(self) -> ContrastiveBatch:
        """Return the batch without its graph."""
        other = replace(self.context, training=False, memo={})
        return replace(self, anchors=self.anchors.detach(), keys=self.keys.detach(), context=other)
