"""``TreatedLoss``: what a host's loss calls once it is treated."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from negplug.contract.adapter import LossSite, Metadata
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import DatasetAccess
from negplug.contract.objective import Objective
from negplug.contract.sampler import NegativeSampler
from negplug.hosts import call_record
from negplug.kernels.distributed import rank, world_size
from negplug.kernels.torch_private import outside_graphs
from negplug.loss.contrastive import ContrastiveLoss
from negplug.objectives.infonce import InfoNCE

_UNKNOWN_INDEXES = (
    "the data set indexes of the batch are unknown (a plain loop has to call provide(indexes=…) "
    "before each step)"
)
_NO_ENCODER = (
    "nothing can embed samples outside the batch (a plain loop has to call provide(encode=…))"
)
_LABELS_INSTEAD = (
    "hand the right ones over in training_step, by provide(labels=…) of the callback's injection"
)


class StepOver(BaseException):
    """Ends a step that is run only to see what its loss is given.

    A ``BaseException``, so that no ``except Exception`` of a recipe stops it.
    """


class Tally:
    """How often a loss was called in training."""

    def __init__(self) -> None:
        self.calls = 0


class TreatedLoss:
    """What a host's loss calls once it is treated.

    Attributes:
        loss: Sampler and counters of this site.
        tally: Counts its calls in training.
        temperature: The temperature that was asked for; None inherits the host's.
        reads_metadata: Whether the site finds the metadata of a step itself.
        numbered_inside: Whether its indexes are those that samples say of themselves, which a
            ``Subset`` around them leaves as they are; otherwise positions in the loader's data set.
        wants_labels: Whether its sampler or objective uses the label of each sample.
        dataset: What its batches can say of the data set.
        evaluating: Whether a Trainer validates, so that the host gets its own loss.
        watcher: Told of each training call's loss while first steps are watched.
        collector: Told of each training call's batch, before its loss is computed.
        looks: Told of what the host's loss is given, before the treated loss is computed.
        doubt: Why the indexes that the site finds itself are not those of the samples, as a
            clause; empty as long as they may be.
        name: Of the site.
        rows_by_view: As of the :class:`.LossSite`.
        shared: As of the :class:`.LossSite`.
        rerouted: Computes what the host gets, given the call, while micro-batches are run.
        lent: Whether a Trainer's callback treats the loss, which is the host's again in the end.
        copied: Whether it came about as a copy of another, with its loss.
        ahead: Told of each call ahead of it, with the host's own loss; what it returns takes the
            place of the treated one, unless that is None.
    """

    def __init__(
        self,
        site: LossSite,
        sampler: NegativeSampler,
        objective: Objective | None,
        temperature: float | None,
    ) -> None:
        # Of the site's name too, so that two losses of a model draw different negatives.
        seed = torch.initial_seed() + zlib.crc32(site.name.encode())
        self.loss = ContrastiveLoss(sampler, objective or InfoNCE(), seed=seed, site=site)
        if site.past_keys and any(part.updates for part in self.loss.sampler.parts_inside()):
            raise ValueError(
                f"{sampler}: {site.host} compares with a memory of its own, and a sampler that "
                f"remembers keys would remember that over and over; choose among it, with "
                f"in_batch(), uniform(…) or hard(…), say"
            )
        parts = (*self.loss.sampler.parts_inside(), *self.loss.objective.parts_inside())
        self._by_place = not any(part.wants_indexes for part in parts)
        self.wants_labels = any(part.wants_labels for part in parts)
        self.tally = Tally()
        self._forgets = False
        self._used: int | None = None  # the step of the calls that the metadata served
        self._metadata = Metadata(unindexed=_UNKNOWN_INDEXES, by_place=self._by_place)
        self.reads_metadata = self.numbered_inside = site.reads_metadata
        self.dataset = DatasetAccess(unencoded=_NO_ENCODER)
        self._inherits_objective = objective is None
        self._captured: list[ContrastiveBatch] | None = None
        self._last: int | None = None
        self.temperature = temperature
        self.evaluating = self.lent = self.copied = False
        self.watcher: Callable[[TreatedLoss, Tensor], None] | None = None
        self.collector: Callable[[ContrastiveBatch], None] | None = None
        self.looks: Callable[[TreatedLoss, tuple[Any, ...]], None] | None = None
        self.doubt = ""
        self._evaluations: list[Tensor] = []
        self._rows = 0
        self.name = site.name
        self.rows_by_view = site.rows_by_view
        self.shared = site.shared
        self.rerouted: Callable[[Any, Callable[[], Tensor]], Tensor] | None = None
        self.ahead: Callable[[Callable[[], Tensor]], Tensor | None] | None = None

    @property
    def calls(self) -> int:
        """How often it was called in training."""
        return self.tally.calls

    def collect_for(self, collector: Callable[[ContrastiveBatch], None]) -> None:
        """Tell ``collector`` of each training call's batch, with the samples' data set indexes."""
        self.collector, self._by_place = collector, False

    @property
    def wants_indexes(self) -> bool:
        """Whether its sampler, its objective or a collector uses data set indexes."""
        return not self._by_place

    @property
    def captures(self) -> bool:
        """Whether the batches of calls are kept, in place of computing their loss."""
        return self._captured is not None

    @property
    def metadata(self) -> Metadata:
        """What is known of the step's samples."""
        if self._forgets and self._used is not None and self._used < self.loss.next_step:
            self.forget()  # so that the next step's samples are not taken for these
        return self._metadata

    def provide(self, metadata: Metadata, *, until_backward: bool = False) -> None:
        """Say what is known of the samples of the step to come.

        Args:
            metadata: Replaces what was known.
            until_backward: Whether it is forgotten with the step; otherwise ``forget`` does it.
        """
        if metadata.indexes is None and not metadata.unindexed:
            metadata = replace(metadata, unindexed=_UNKNOWN_INDEXES)
        self._metadata = replace(metadata, by_place=self._by_place)
        self._forgets, self._used = until_backward, None

    @contextlib.contextmanager
    def knowing(self, metadata: Metadata) -> Iterator[None]:
        """Know this of the samples inside, and what was known before afterwards."""
        before = self._metadata, self._forgets
        self._metadata = replace(metadata, by_place=self._by_place)
        self._forgets = False
        try:
            yield
        finally:
            self._metadata, self._forgets = before

    def together(self, *given: Any) -> contextlib.AbstractContextManager[None]:
        """Return a context inside which a rank that fails makes every rank raise."""
        watched = self.looks is not None or self.doubt
        return self._together(given) if watched else self.loss.ranks.together(*given)

    @contextlib.contextmanager
    def _together(self, given: tuple[Any, ...]) -> Iterator[None]:
        with self.loss.ranks.together(*given):
            if self._captured is None:
                if self.doubt:
                    self.disown_indexes(self.doubt)
                if self.looks is not None:
                    self.looks(self, given)
            yield

    def disown_indexes(self, reason: str) -> None:
        """Know the indexes of the step's samples no longer, for the reason of a clause.

        Those that the recipe has handed over itself stay.

        Raises:
            ValueError: If the site finds the metadata itself, and they are needed.
        """
        if self._metadata.handed_over:
            return
        if self.reads_metadata and self.wants_indexes:
            raise ValueError(f"{self.name}: {reason}")
        self._metadata = replace(self._metadata, indexes=None, unindexed=reason)

    def disown_labels(self, reason: str) -> None:
        """Know the labels of the step's samples no longer, as :meth:`disown_indexes`."""
        if self._metadata.labels_handed_over or self._metadata.labels is None:
            return
        if self.reads_metadata and self.wants_labels:
            raise ValueError(f"{self.name}: {reason}; {_LABELS_INSTEAD}")
        self._metadata = replace(self._metadata, labels=None, unlabeled=reason)

    def returned(
        self, own: Callable[[], Tensor], treated: Callable[[], Tensor], learns: bool = True
    ) -> Tensor:
        """Return the treated loss, or the host's own in an evaluation.

        Where a Trainer validates the treated one is computed as well, without gradient, for
        :meth:`take_evaluations`.
        """
        if self._captured is not None:
            return treated()
        if self.rerouted is not None:
            return self.rerouted(self, treated)
        if self.ahead is not None and (instead := self.ahead(own)) is not None:
            return instead
        if not self.evaluating:
            # Not without gradient alone: so is the first pass of a reentrant checkpoint.
            return treated() if learns or torch.is_grad_enabled() else own()
        value = own()
        with torch.no_grad():
            self._evaluations.append(treated().detach())
        return value

    def take_evaluations(self) -> tuple[list[Tensor], int]:
        """Return and forget the treated losses of validation calls; and their number of anchors."""
        taken, self._evaluations = self._evaluations, []
        return taken, self._rows

    def __call__(
        self, batch: ContrastiveBatch, *, objective: Objective, temperature: float
    ) -> Tensor:
        """Return the mean loss; what was asked for explicitly replaces what the host has."""
        if self._captured is not None:
            return self._capture(batch)
        if self.evaluating:
            self._rows = len(batch.anchors)
        if batch.training:
            self._used = self.loss.next_step
            self.tally.calls += 1
            if self.collector is not None:
                self.collector(batch)
            if not call_record.recorded_here():
                call_record.record_call(rank(), world_size())
        self.loss.to(batch.anchors.embeddings.device)
        loss = self.loss.contrast(
            batch,
            objective if self._inherits_objective else None,
            temperature if self.temperature is None else self.temperature,
            self.dataset,
        )
        if self.watcher is not None and batch.training:
            self.watcher(self, loss)
        return loss

    @contextlib.contextmanager
    def capturing(
        self, metadata: Metadata, last: int | None = None
    ) -> Iterator[list[ContrastiveBatch]]:
        """Keep the batches of the calls made inside, in place of computing their loss.

        Nothing is sampled or counted, and each call returns zero.

        Args:
            metadata: What is known of the samples inside.
            last: Number of the call, from 0, that ends the step with :class:`StepOver`.
        """
        before = self._captured, self._last
        captured: list[ContrastiveBatch] = []
        self._captured, self._last = captured, last
        try:
            with self.knowing(metadata):
                yield captured
        finally:
            self._captured, self._last = before

    @outside_graphs
    def _capture(self, batch: ContrastiveBatch) -> Tensor:
        assert self._captured is not None
        self._captured.append(batch)
        if len(self._captured) - 1 == self._last:
            raise StepOver
        return batch.anchors.embeddings.new_zeros((), requires_grad=True)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model is another training's, and what its samples are nobody tells it.
        blank = ("watcher", "looks", "rerouted", "collector", "ahead", "_captured", "_used")
        unknown = Metadata(unindexed=_UNKNOWN_INDEXES, by_place=self._by_place)
        fresh = {"copied": True, "evaluating": False, "_evaluations": [], "_metadata": unknown}
        return vars(self) | dict.fromkeys(blank) | fresh | {"_forgets": False}

    def forget(self) -> None:
        """Forget the step's samples, so that the next step's are not taken for them."""
        self.provide(Metadata())
