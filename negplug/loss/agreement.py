"""Ranks agree: on what they train with, before the first exchange, and on a call that failed.

In the first training call of a loss, and in the first one after a load, the ranks compare what they
were given, and what they remember alike. Later calls compare nothing more: a rank that fails says
so in the exchange that the others begin with, so that all of them raise. Where a call exchanges
nothing, nobody waits for the loss, and a rank fails alone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.part import Part
from negplug.contract.rows import Rows
from negplug.contract.state import Stateful
from negplug.kernels.announcing import (
    Purpose,
    announce,
    announced,
    can_exchange,
    default_device,
    exchanged,
    tell,
    within,
)
from negplug.kernels.distributed import rank, world_size
from negplug.kernels.errors import RanksError
from negplug.kernels.torch_private import backward_runs, joins_uneven_inputs
from negplug.loss import same_samples
from negplug.loss.learned import insist_on_same_learned, is_due
from negplug.loss.terms import compare, remembered, terms_of

_P = ParamSpec("_P")
_T = TypeVar("_T")

_numbers = itertools.count()


class Agreement:
    """What the ranks of one loss have agreed on, and how its calls fail on all of them.

    Attributes:
        beside: The losses of the model that are treated, by name; empty for a loss by itself.
        name: Which of them this one is.
    """

    def __init__(self) -> None:
        self.beside = self.name = ""
        # Of the losses that the ranks have agreed on, in that order.
        self._number: int | None = None
        self._temperature: float | None = None
        self._epoch: int | None = None
        self._agreed = False
        self._insisted: int | None = None
        # Whether a call, training or not, exchanges anything.
        self._exchanges = {True: False, False: False}
        self._device: torch.device | None = None
        self._forget_call()

    def _forget_call(self) -> None:
        within(None, None)
        self._inside = self._comparing = self._over = False
        self._before = 0
        self._compared: float | None = None
        self._told: int | None = None
        self._batch: ContrastiveBatch | None = None

    def forget(self) -> None:
        """Compare again in the next training call: another state has been loaded.

        Where nothing is exchanged, the ranks do not: it may have been loaded on one of them.
        """
        self._agreed = self._agreed and not self._exchanges[True]

    @contextlib.contextmanager
    def together(self, *given: Any) -> Iterator[None]:
        """Tell the other ranks of an error inside, if they wait for this one.

        Args:
            *given: What the host's loss was given, which says whether the call trains.
        """
        if self._inside or world_size() == 1:
            yield
            return
        self._inside, self._over, self._before = True, False, announced()
        within(None, self._number)
        try:
            yield
        except RanksError:
            raise
        except Exception as error:
            device = self._device_of(given)
            if self._awaited(given, device):
                tell(error, device)
            raise
        finally:
            self._forget_call()

    def settle(
        self,
        seed: int,
        temperature: Any,
        step: int,
        sampler: Part,
        objective: Part,
        rows: Rows,
        learned: Callable[[], Iterable[tuple[str, Tensor]]],
        epoch: int | None = None,
    ) -> int:
        """Compare what the ranks train with, if that is due; return the seed of the draws.

        Args:
            seed: This rank's; all take rank 0's, whatever ``seed + rank`` a recipe gives them.
            temperature: As it was given. A tensor learns, or is computed by a host whose
                temperature adapts to the batch, and may differ.
            step: Training steps done so far.
            sampler: The sampler.
            objective: The objective.
            rows: The anchors.
            learned: Returns the loss's parameters, by name.
            epoch: Of a sampler that switches by it. A new one is compared, for the ranks may
                exchange from then on what they did not before.

        Raises:
            RanksError: If something differs; on every rank.
            ValueError: If this rank has learned something else than another one.
        """
        if not self._inside:
            return seed
        # Where nothing is exchanged, ranks may be replicas. SAM's second pass is off on purpose.
        if self._exchanges[True] and is_due(step) and step != self._insisted:
            self._insisted = step
            insist_on_same_learned(step, learned())
        constant = None if isinstance(temperature, Tensor) else float(temperature)
        changed = self._exchanges[True] and constant != self._temperature
        changed |= epoch != self._epoch
        if self._agreed and not changed:
            return seed
        self._compared, self._told = constant, epoch
        self._device = rows.embeddings.device
        self._comparing = True
        parts = {"sampler": sampler, "objective": objective}
        terms = terms_of(step, parts, constant, rows.embeddings) | {"epoch": str(epoch)}
        terms |= {"treated losses": self.beside, "loss that is called": self.name}
        terms |= {} if self._agreed else remembered(parts)
        first = self._number is None and can_exchange(self._device)
        local = any(isinstance(part, Stateful) and part.per_rank for part in sampler.parts_inside())
        samples = same_samples.digest_of_samples(rows, local) if first else ""
        said = json.dumps({"seed": seed, "terms": terms, "samples": samples})
        everyones = [json.loads(text) for text in exchanged(said, self._device)]
        compare([found["terms"] for found in everyones])
        if first:
            self._number = next(_numbers)
            same_samples.warn_of_same([found["samples"] for found in everyones], rank())
        return int(everyones[0]["seed"])

    def disregard(self) -> None:
        """Let what the call has exchanged so far say nothing of what later calls exchange."""
        self._before = announced()

    def watch(self, batch: ContrastiveBatch) -> None:
        """Take the batch of the call for what the samplers see, until the call ends."""
        if self._inside:
            self._batch, self._device = batch, batch.anchors.embeddings.device
            step = batch.context.draws.step
            # Of several ranks no graph counts the steps.
            counted = step if batch.training and isinstance(step, int) else None
            within(counted, self._number)

    def announces(self, device: torch.device) -> bool:
        """Return whether ranks can say that they have failed where they count their anchors."""
        # Elsewhere a device would have to be waited for in every step.
        return self._inside and (device.type == "cpu" or self._comparing)

    def end(self, batch: ContrastiveBatch) -> None:
        """Take note that the call exchanges nothing more; nobody waits for a rank afterwards."""
        if not self._inside:
            return
        first = self._comparing and not self._agreed
        if self._comparing:
            # A rank that failed since has to be heard, whether the call exchanges anything or not.
            announce(Purpose.END, batch.anchors.embeddings.device)
            self._agreed, self._temperature, self._epoch = True, self._compared, self._told
        self._exchanges[batch.training] = announced() > self._before
        if first and self._exchanges[batch.training]:  # later on it would cost too much
            _refuse_uneven_inputs()
        self._over = True

    def _awaited(self, given: tuple[Any, ...], device: torch.device) -> bool:
        """Return whether the other ranks are in an exchange of this call, or about to begin one.

        Args:
            given: See :meth:`together`.
            device: Where exchanges are made.
        """
        if self._over or backward_runs():
            return False  # checkpointing ends what it computes again by an error, on all ranks
        training = _trains(given) if self._batch is None else self._batch.training
        if training and (self._comparing or not self._agreed):
            return True
        if announced() == self._before:
            return self._exchanges[training]
        # Who has gathered keys counts anchors at the end; without a batch an adapter has gathered.
        counts = self._batch is None or self._batch.tie is not None
        return counts and self.announces(device)

    def _device_of(self, given: tuple[Any, ...]) -> torch.device:
        """Return where the ranks exchange tensors; where the call is, if there was none before."""
        tensors = [value for value in given if isinstance(value, Tensor)]
        found = self._device or (tensors[-1].device if tensors else default_device())
        # Not where this rank alone has put its embeddings, by mistake.
        return found if can_exchange(found) else default_device()


class _Agreeing(Protocol):
    ranks: Agreement


_Self = TypeVar("_Self", bound=_Agreeing)


def fails_together(
    method: Callable[Concatenate[_Self, _P], _T],
) -> Callable[Concatenate[_Self, _P], _T]:
    """Decorate a method of a loss that fails on all ranks or on none."""

    @functools.wraps(method)
    def call(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if world_size() == 1:
            return method(self, *args, **kwargs)
        with self.ranks.together(*args, *kwargs.values()):
            return method(self, *args, **kwargs)

    return call


def seed_of_run(seed: int | None) -> int:
    """Return the seed of a rank's draws, torch's own if none was given; reads no generator.

    Raises:
        TypeError: If it is no integer.
    """
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    return (torch.initial_seed() if seed is None else seed) % (1 << 63)


def _refuse_uneven_inputs() -> None:
    """Raise ``RanksError`` if some ranks may end before the others; every rank finds the same."""
    if joins_uneven_inputs():
        raise RanksError(
            "the ranks train in join(), where some end before the others, and this loss exchanges "
            "rows with all of them, which would end the process; drop the last batches "
            "(drop_last=True) and join(), or take a sampler that exchanges nothing"
        )


def _trains(given: tuple[Any, ...]) -> bool:
    """Return whether a call that got no batch yet would count as training."""
    batches = [value.training for value in given if isinstance(value, ContrastiveBatch)]
    learns = [value.requires_grad for value in given if isinstance(value, Tensor)]
    return any(batches) if batches else torch.is_grad_enabled() and (not learns or any(learns))
