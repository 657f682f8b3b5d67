"""Ranks agree: on what they train with, before the first exchange, and on a call that failed.

In the first training call of a loss, and in the first one after a load, the ranks compare what they
were given. Later calls compare nothing more: a rank that fails says so in the exchange that the
others begin with, so that all of them raise. Where a call exchanges nothing, nobody waits for the
loss, and a rank fails alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.part import Part
from negplug.contract.provenance import installed_version
from negplug.contract.state import Stateful
from negplug.kernels.announcing import (
    Purpose,
    announce,
    announced,
    default_device,
    exchanged,
    tell,
)
from negplug.kernels.distributed import total, world_size
from negplug.kernels.errors import RanksError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_VARIABLES = ("BACKEND", "DISABLED_PLUGINS", "OBJECTIVE", "SAMPLER", "TEMPERATURE")
"""Of the environment: what changes the losses of a rank."""

_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # in the description of a function, of each process


class Agreement:
    """What the ranks of one loss have agreed on, and how its calls fail on all of them."""

    def __init__(self) -> None:
        self._temperature: float | None = None
        self._agreed = False
        # Whether a call, training or not, exchanges anything.
        self._exchanges = {True: False, False: False}
        self._device: torch.device | None = None
        self._forget_call()

    def _forget_call(self) -> None:
        self._inside = self._comparing = self._over = False
        self._before = 0
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
        step: int,
        batch: ContrastiveBatch,
        parts: dict[str, Part],
        temperature: float,
    ) -> int:
        """Compare what the ranks train with, if that is due; return the seed of the draws.

        Args:
            seed: This rank's; all take rank 0's, whatever ``seed + rank`` a recipe gives them.
            step: Training steps done so far.
            batch: Of the call.
            parts: Sampler and objective.
            temperature: As it was given. A tensor is computed, by a host whose temperature adapts
                to the batch, and may differ.

        Raises:
            RanksError: If something differs; on every rank.
        """
        if not self._inside:
            return seed
        self._device = batch.anchors.embeddings.device
        constant = None if isinstance(temperature, Tensor) else float(temperature)
        changed = self._exchanges[True] and constant != self._temperature
        if not batch.training or (self._agreed and not changed):
            return seed
        terms = _terms(step, batch, parts, constant)
        said = json.dumps({"seed": seed, "terms": terms})
        everyones = [json.loads(text) for text in exchanged(said, self._device)]
        _compare([found["terms"] for found in everyones])
        self._comparing, self._temperature = True, constant
        return int(everyones[0]["seed"])

    def watch(self, batch: ContrastiveBatch) -> None:
        """Take the batch of the call for what the samplers see, until the call ends."""
        if self._inside:
            self._batch = batch

    def anchors_with_positive(self, batch: ContrastiveBatch) -> Tensor:
        """Return the number of anchors with a positive; over several ranks, their mean per rank.

        The latter makes DDP's average over ranks the mean over all anchors, also when one rank has
        a smaller batch. It is the last exchange of a call.
        """
        number = (batch.positives >= 0).any(1).sum()
        mean = number.clamp(min=1)
        if batch.tie is not None:
            everyones = total(number, self._announces(number.device)).clamp(min=1)
            mean = everyones.to(batch.anchors.embeddings.dtype) / world_size()
        if self._comparing:
            # A rank that failed since has to be heard, whether the call exchanges anything or not.
            announce(Purpose.END, number.device)
            self._agreed = True
        self._exchanges[batch.training] = announced() > self._before
        self._over = True
        return mean

    def _announces(self, device: torch.device) -> bool:
        # A device would have to be waited for in every step.
        return self._inside and (device.type == "cpu" or self._comparing)

    def _awaited(self, given: tuple[Any, ...], device: torch.device) -> bool:
        """Return whether the other ranks are in an exchange of this call, or about to begin one.

        Args:
            given: See :meth:`together`.
            device: Where exchanges are made.
        """
        if self._over:
            return False
        training = _trains(given) if self._batch is None else self._batch.training
        if training and (self._comparing or not self._agreed):
            return True
        if announced() == self._before:
            return self._exchanges[training]
        # Who has gathered keys counts anchors at the end; without a batch an adapter has gathered.
        counts = self._batch is None or self._batch.tie is not None
        return counts and self._announces(device)

    def _device_of(self, given: tuple[Any, ...]) -> torch.device:
        """Return where the ranks exchange tensors; where the call is, if there was none before."""
        tensors = [value for value in given if isinstance(value, Tensor)]
        if self._device is not None or not tensors:
            return self._device or default_device()
        return tensors[-1].device


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


def _trains(given: tuple[Any, ...]) -> bool:
    """Return whether a call that got no batch yet would count as training."""
    batches = [value.training for value in given if isinstance(value, ContrastiveBatch)]
    learns = [value.requires_grad for value in given if isinstance(value, Tensor)]
    return any(batches) if batches else torch.is_grad_enabled() and (not learns or any(learns))


def _terms(
    step: int, batch: ContrastiveBatch, parts: dict[str, Part], temperature: float | None
) -> dict[str, str]:
    """Return what must be the same on all ranks, by the name that a message gives it."""
    rows = batch.anchors.embeddings
    terms = {"version of negplug": str(installed_version("negplug"))}
    for name, part in parts.items():
        terms[name] = str(part)
        for path, module in part.named_modules():
            if isinstance(module, Stateful):
                # Such as a size that was taken from the host.
                for key, value in module.all_settings().items():
                    terms[f"{key} of the {name}{path and f' ({path})'}"] = repr(value)
    terms["temperature"] = repr(temperature)
    terms["type of the embeddings"] = str(rows.dtype)
    terms["width of the embeddings"] = str(rows.shape[1])
    terms["number of training steps done"] = str(step)
    for variable in _VARIABLES:
        name = f"NEGPLUG_{variable}"
        terms[f"variable {name}"] = os.environ.get(name, "unset")
    return {name: _ADDRESS.sub("", value) for name, value in terms.items()}


def _compare(everyones: list[dict[str, str]]) -> None:
    """Raise unless all ranks have the same terms.

    Raises:
        RanksError: Names the first that differs, and two ranks.
    """
    first = everyones[0]
    for rank, terms in enumerate(everyones):
        for name in (*first, *terms):
            own, other = first.get(name), terms.get(name)
            if own != other:
                raise RanksError(
                    f"the ranks differ in the {name}: rank 0 has {own}, rank {rank} has {other}; "
                    f"all ranks of a run need the same"
                )
