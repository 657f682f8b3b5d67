"""Which model and which data set the state of a Trainer's samplers is of.

Rows of past steps are of one model, and what is kept under data set indexes is of one data set. A
fit with another of either starts afresh; a change in the middle of a run, or between a checkpoint
and the run that resumes, is refused where state is kept per sample, for it cannot be told which
samples the indexes mean.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from typing import Any

from negplug.hosts.composing.epochs import compare
from negplug.hosts.injection import Injection
from negplug.hosts.trainer import private
from negplug.hosts.trainer.composition import Composition
from negplug.hosts.trainer.dataset.changed_tables import KeptTables
from negplug.hosts.trainer.dataset.fingerprint import (
    TOKEN,
    Fingerprint,
    dataset_of,
    of_dataset,
    selection,
)
from negplug.hosts.trainer.epoch_length import batches_to_come, insist_on_one_number
from negplug.hosts.trainer.indexes.recorder import unknowable
from negplug.hosts.trainer.weights import Weights, weights_of
from negplug.kernels.distributed import everyones, rank, world_size

logger = logging.getLogger("negplug")


class Ownership:
    """The model and the data set that some state is of.

    Attributes:
        dataset: The data set's fingerprint as text; None until one is known.
        has_model: Whether there is a model that it is of.
        assumed: Whether the data set is another object than before and was taken for the same by
            its type and length alone.
    """

    def __init__(self) -> None:
        self.dataset: str | None = None
        self._selection = ""
        self._object: weakref.ref[Any] | None = None
        self._model: weakref.ref[Any] | None = None
        self._weights: Weights | None = None
        self._tables: KeptTables | None = None
        self.has_model = self.assumed = False

    def __getstate__(self) -> dict[str, Any]:
        # In another process, or in a copy, the model and the data set are other objects.
        return vars(self) | {"_model": None, "_object": None, "_tables": None}

    def take(self, model: Any) -> None:
        """Own the state of this model; once more at the end of a fit, whose weights it is of."""
        self.has_model = True
        self._model = weakref.ref(model)
        self._weights = weights_of(model)

    def is_of(self, model: Any) -> bool:
        """Return whether this is the very model, with the weights that it had."""
        known = self._model is not None and self._model() is model
        return known and self._weights == weights_of(model)

    def is_as_taken(self) -> bool:
        """Return whether the model has the weights that it was taken with, or the same again."""
        model = None if self._model is None else self._model()
        if model is None or self._weights is None:
            return False
        return self._weights.values == weights_of(model).values

    def set_dataset(self, text: str | None) -> None:
        """Own the state of a data set that is known by its fingerprint alone, or not at all."""
        self.dataset, self._object = text, None

    def changed(self, dataset: Any, *, between_fits: bool = False) -> Fingerprint | None:
        """Return the fingerprint of ``dataset`` if it is another one; otherwise own its state.

        The very object that was owned before is the same, unless it has other samples now, see
        :mod:`negplug.hosts.trainer.dataset.changed_tables`.

        Args:
            dataset: What is trained on.
            between_fits: Whether no run of it is going on.

        Raises:
            TypeError: If the data set has a ``negplug_token`` that is none.
        """
        known = self._object is not None and self._object() is dataset
        if known and selection(dataset) == self._selection:
            if self._tables is None or not self._tables.differ(dataset, between_fits=between_fits):
                return None
        found = of_dataset(dataset)
        if known or self.dataset not in (None, str(found)):
            return found
        self.assumed = self.dataset is not None and found.blind
        self.own(dataset, found)
        return None

    def own(self, dataset: Any, found: Fingerprint) -> None:
        """Own the state of a data set with this fingerprint."""
        self.dataset, self._selection = str(found), found.selection
        try:
            self._object = weakref.ref(dataset)
            self._tables = KeptTables(dataset)
        except TypeError:
            self._object = None  # a plain list, or those of several loaders


_APART = (
    "each rank has a data set of its own, so that an index means another sample on each; give all "
    f"ranks the whole one, which DistributedSampler divides, or one {TOKEN} if they are the same"
)


class KeptState:
    """The samplers' state between the fits of a callback, and from a checkpoint to a fit.

    Attributes:
        saved: What the next treated model takes over, by loss; None if nothing.
        owner: Whose state it is.
        apart: Why the ranks' indexes are not comparable, as a clause; empty if they are.
    """

    def __init__(self) -> None:
        self.saved: dict[str, Any] | None = None
        self.owner = Ownership()
        self.apart = ""
        self._fresh: dict[str, Any] | None = None
        self._untrained: dict[str, Any] | None = None  # given to a fit that has not trained yet
        self._resumes = False
        self._given: Injection | None = None

    def take_over(self, injection: Injection | None, model: Any) -> None:
        """Keep the state of the fit before if it is of this very model; begin a fit of it.

        Args:
            injection: The handle of the fit before, if that has trained. One that failed before,
                or had no epoch left, hands on what it was given.
            model: The model to fit.
        """
        same, before = self.owner.is_of(model), self._untrained
        self.owner.take(model)
        self.saved, self._fresh, self._resumes = None, None, False
        self._given = None
        if injection is not None:
            before = injection.state_dict() if same else {}
        self.saved = self._untrained = before if same else None
        if not same:
            self._begin_afresh(told=before is not None)

    def resume(self, saved: dict[str, Any], dataset: Any) -> None:
        """Keep the state of a checkpoint; give it on to a model that is treated already.

        Strategies that shard the model read a checkpoint after ``on_fit_start``.

        Args:
            saved: The state, by loss.
            dataset: Text of the data set's fingerprint, or that of each rank; None if none was
                known.

        Raises:
            ValueError: If ``dataset`` is something else.
        """
        if isinstance(dataset, list) and len(dataset) == world_size():
            dataset = dataset[rank()]
        if not (dataset is None or isinstance(dataset, str)):
            raise ValueError(
                f"the checkpoint names its data set by a {type(dataset).__name__}, not a string; "
                f"the file is damaged"
            )
        self.saved, self._untrained, self._resumes = saved, None, True
        self.owner.set_dataset(dataset)
        if self._given is not None:
            self.restore(self._given)

    def restore(self, injection: Injection) -> None:
        """Give the treated model what is kept, and what may still come of a checkpoint."""
        self._given = injection
        if self.saved is not None and not (self._resumes or self.owner.is_as_taken()):
            # By a hook of the model, or from a checkpoint of a run that was not treated.
            self.saved = self._untrained = None
            self._begin_afresh()
        if self.saved is not None:
            fresh = injection.state_dict()
            injection.load_state_dict(self.saved)
            self._fresh = None if self._resumes else fresh
            self.saved = None

    def check(
        self,
        trainer: Any,
        injection: Injection,
        when: str = "",
        composition: Composition | None = None,
    ) -> None:
        """See that the Trainer trains on the data set that the state is of.

        Args:
            trainer: The Trainer, once its training loader is there.
            injection: The treated model's handle.
            when: Which epoch begins, as a clause; empty before the first of a fit, where state of
                another data set is dropped.
            composition: Composes its batches, if they are composed.

        Raises:
            ValueError: If it is another one, and state is kept under its indexes; or if the ranks
                do not compose the same batches.
            RanksError: If they have another number of batches, so that some would wait for ever
                at the epoch's end; on every rank.
        """
        inside = all(treated.numbered_inside for treated in injection.losses.values())
        loader = private.training_loader(trainer)
        dataset, before = dataset_of(loader, numbered_inside=inside), self.owner.dataset
        fresh, self._fresh = self._fresh, None
        self._given = self._untrained = None  # a checkpoint is read before training begins
        found = self.owner.changed(dataset, between_fits=not when)
        terms = "no compose" if composition is None else composition.check()
        own = self.owner.dataset if found is None else str(found)
        batches = batches_to_come(trainer)
        told = everyones((None if found is None else str(found), terms, own, batches))
        compare([said for _, said, *_ in told])
        insist_on_one_number([number for *_, number in told])
        self.apart = "" if len({text for *_, text, _ in told}) == 1 else _APART
        # Of any rank, so that all of them start afresh or raise.
        now = next((name for name, *_ in told if name), None)
        part = _per_sample(injection) or ("" if composition is None else composition.keeps)
        if now is None:
            if self.owner.assumed and part:
                self.owner.assumed = False
                warnings.warn(
                    f"{part} goes on with its state of {before}, which holds nothing "
                    f"by which it can be told from another one; give it an attribute {TOKEN}, a "
                    f"name of its data, and other data will be noticed",
                    stacklevel=2,
                )
            return
        if fresh is not None:
            injection.load_state_dict(fresh)
            _say(f"its state was of {before}, this is {now}")
        elif part and (inside or not unknowable(loader)):
            raise ValueError(
                f"{part} keeps state under data set indexes of {before}, but "
                f"{when or 'in the run that resumes'} the training data set is {now}, where "
                f"they mean other samples; train on one data set and choose its samples with the "
                f"DataLoader's sampler, start without the old state, or give both data sets one "
                f"{TOKEN} if they are the same"
            )
        if found is not None:
            self.owner.own(dataset, found)

    def _begin_afresh(self, told: bool = True) -> None:
        self.owner.set_dataset(None)
        if told:
            _say("its state was of another model, or of other weights")


def _per_sample(injection: Injection) -> str:
    """Return the first sampler or objective that keeps state under data set indexes, or ""."""
    for treated in injection.losses.values():
        parts = [*treated.loss.sampler.parts_inside(), *treated.loss.objective.parts_inside()]
        for part in parts:
            if part.wants_indexes and part.updates:
                return str(part)
    return ""


def _say(why: str) -> None:
    if rank() == 0:
        logger.info("negplug starts afresh: %s", why)
