"""Several ``NegativeControl`` callbacks in one Trainer, each with a target of its own.

Their states have keys of their own in a checkpoint: ``negplug`` for a callback without a target,
``negplug/TARGET`` for one with. A state that was saved under the other key is found all the same,
so that naming the only loss, or no longer naming it, loses nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from negplug.contract.composer import Composer
from negplug.hosts.injection import Injection
from negplug.hosts.trainer.indexes.recorder import IndexRecorder
from negplug.hosts.treated_loss import TreatedLoss
from negplug.hosts.treatment import Treatment
from negplug.loss.terms import insist_on_same

_KEY = "negplug"
_NUMBERS = itertools.count(1)


def state_key(target: str | None, begun: bool = True) -> str:
    """Return the key of a callback's state in checkpoints.

    Args:
        target: Of the callback.
        begun: Whether a Trainer has set it up. A Trainer that is made refuses equal keys, and a
            callback that it is given twice, in words that name no loss, ahead of
            :func:`check_targets`. So each key is another one until then; nothing is saved under it.
    """
    if not begun:
        return key_of_none(_KEY)
    return _KEY if target is None else f"{_KEY}/{target}"


def key_of_none(key: str) -> str:
    """Return a key that no callback has, for one that no Trainer has set up yet."""
    return f"{key} {next(_NUMBERS)}"


def check_once(callback: object, callbacks: Iterable[object]) -> None:
    """Raise ``ValueError`` if a Trainer's callbacks hold the same one twice.

    Args:
        callback: The one.
        callbacks: All of them.
    """
    if sum(each is callback for each in callbacks) > 1:
        raise ValueError(
            "the Trainer's callbacks hold the same NegativeControl twice; a loss can have one "
            "sampler, so drop one"
        )


def check_targets(target: str | None, others: Sequence[str | None]) -> None:
    """Raise ``ValueError`` unless the callbacks of a Trainer treat different losses.

    Args:
        target: Of one callback.
        others: Of the other callbacks.
    """
    if not others:
        return
    if target is None or None in others:
        raise ValueError(
            "one of several NegativeControl callbacks has no target and so treats every loss; "
            "give each the target of its own loss, or drop one"
        )
    if target in others:
        raise ValueError(
            f"two NegativeControl callbacks have target={target!r}; a loss can have one sampler, "
            f"so name another loss or drop one"
        )


def check_idle(at_work: bool) -> None:
    """Raise ``ValueError`` if a callback that is in the middle of a fit is to serve another run.

    Args:
        at_work: Whether it is in the middle of one.
    """
    if at_work:
        raise ValueError(
            "this NegativeControl callback is in the middle of a fit; a Trainer that runs inside "
            "of that fit needs a callback of its own, or none to validate the host's own loss"
        )


def check_accumulate(accumulate: int, others: Sequence[int]) -> None:
    """Raise ``ValueError`` unless the callbacks of a Trainer ask for the same micro-batches.

    Args:
        accumulate: Of one callback.
        others: Of the other callbacks.
    """
    if others and {accumulate} != set(others):
        raise ValueError(
            f"the NegativeControl callbacks have accumulate={accumulate} and "
            f"accumulate={next(other for other in others if other != accumulate)}; a step can be "
            f"split in one way, so give all of them the same"
        )


def check_compose(compose: object, others: Iterable[object]) -> None:
    """Raise ``ValueError`` if more than one callback of a Trainer composes its batches.

    Args:
        compose: The composition of one callback, None if it has none.
        others: Those of the other callbacks.
    """
    if compose is not None and any(other is not None for other in others):
        raise ValueError(
            "two NegativeControl callbacks of a Trainer have compose=; its losses train on the "
            "same batches, so give it to one of them"
        )


def losses_of(injections: Iterable[Injection | None]) -> list[TreatedLoss]:
    """Return the treated losses of several handles."""
    return [treated for each in injections if each for treated in each.losses.values()]


def saved_elsewhere(states: Mapping[Any, Any], target: str | None) -> dict[str, Any] | None:
    """Return the state of a callback that a checkpoint holds under another key.

    Args:
        states: The callbacks' states in the checkpoint.
        target: Of the callback that asks, which has no state under its own key.

    Returns:
        The state, or None if the checkpoint holds no state of negplug's samplers.

    Raises:
        ValueError: If the states that it holds are of other losses.
    """
    found = {
        key: state
        for key, state in states.items()
        if isinstance(key, str) and key.partition("/")[0] == _KEY and _losses(state)
    }
    if not found:
        return None
    named = sorted(name for state in found.values() for name in _losses(state))
    if len(found) == 1 and (target is None or named == [target]):
        (state,) = found.values()
        return dict(state)
    wanted = "every loss" if target is None else repr(target)
    raise ValueError(
        f"the checkpoint holds the sampler state of {', '.join(named)}, but a NegativeControl of "
        f"this run treats {wanted}; resume with the same callbacks and targets"
    )


def _losses(state: Any) -> list[str]:
    """Return the names of the losses in a callback's state."""
    losses = state.get("losses") if isinstance(state, Mapping) else None
    ranks = state.get("ranks") if isinstance(state, Mapping) else None
    losses = losses or (ranks[0] if isinstance(ranks, list) and ranks else None)
    return [str(name) for name in losses] if isinstance(losses, Mapping) else []


def hyperparameters(
    treatment: Treatment, target: str | None, prefix: str, compose: Composer | None
) -> dict[str, str]:
    """Return what was chosen, for loggers, under names that begin with ``prefix``."""
    given = {
        "sampler": treatment.describe(),
        "objective": treatment.objective,
        "temperature": treatment.temperature,
        "target": target,
        "compose": compose,
    }
    return {f"{prefix}{key}": str(value) for key, value in given.items() if value is not None}


def insist_on_same_arguments(given: Mapping[str, object]) -> None:
    """Insist that a callback was given the same on every rank; names what was not.

    Args:
        given: Its arguments, by name.

    Raises:
        RanksError: If arguments or variables of the environment differ; on every rank.
    """
    insist_on_same({f"{name} of NegativeControl": str(value) for name, value in given.items()})


class SharedRecorder:
    """One :class:`IndexRecorder` for all callbacks of a Trainer.

    A recorder advances once for each training batch; here each callback asks once.

    Args:
        trainer: The Trainer, in a callback's ``setup`` for ``fit``.

    Attributes:
        trainer: The Trainer.
        recorder: What it knows of the batch that was asked for last.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.recorder = IndexRecorder(trainer)
        self._indexes: Tensor | None = None
        self._told: set[int] = set()

    def indexes(self, callback: object) -> Tensor | None:
        """Return the indexes of the batch about to be trained on; each callback asks once."""
        if not self._told or id(callback) in self._told:
            self._told.clear()
            self._indexes = self.recorder.advance()
        self._told.add(id(callback))
        return self._indexes

    def remove(self) -> None:
        """Stop recording, for all callbacks."""
        self.recorder.remove()


def shared_recorder(trainer: Any, others: Iterable[SharedRecorder]) -> SharedRecorder:
    """Return the recorder of a Trainer that another callback has made, or make it."""
    made = (each for each in others if each.trainer is trainer)
    return next(made, None) or SharedRecorder(trainer)
