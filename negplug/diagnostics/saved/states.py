"""The treated losses in a checkpoint: of the callback, of ``inject``, of a ``ContrastiveLoss``.

The callback's state names its expressions and the data set. Elsewhere (``handle.state_dict()``,
``loss_fn.state_dict()``, alone or anywhere in a larger file) a loss is known by its counters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from negplug.diagnostics.saved.values import summed_up

# How deep a file is searched for losses.
_DEPTH = 6

_EXTRA = "_extra_state"
_CALLBACK = "negplug"


@dataclass(frozen=True)
class SavedPart:
    """A sampler or an objective that remembers, or a table of one.

    Attributes:
        name: Where in its loss it is, such as ``sampler.tiers.1.source``.
        settings: What must be the same in a run that resumes.
        values: What it remembers, summed up.
    """

    name: str
    settings: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class SavedLoss:
    """A treated loss.

    Attributes:
        name: Of its site, or where in the file it is.
        step: How many training steps it has seen.
        seed: Of its draws.
        epoch: The epoch that was said last; None if none was.
        learned_temperature: A τ that learns, as it was; None if it does not learn.
        rank: Whose it is, where ranks have state of their own.
        parts: What remembers.
    """

    name: str
    step: int
    seed: int
    epoch: int | None
    learned_temperature: float | None
    rank: int | None
    parts: tuple[SavedPart, ...]


@dataclass(frozen=True)
class SavedTreatment:
    """What one callback has saved, or what was found elsewhere in a file.

    Attributes:
        key: Of the callback's state; empty elsewhere, where the next five are not recorded.
        sampler: Expression.
        objective: Expression; None is the host's own.
        temperature: The one that was asked for; None is the host's own.
        records_temperature: Whether the file says so; those of negplug 0.1.0 do not.
        compose: Expression of what composes the batches; None if they are the recipe's own.
        dataset: Fingerprint of the data set; of each rank, a list.
        losses: The treated losses, rank by rank where each has state of its own.
    """

    key: str
    sampler: str | None
    objective: str | None
    temperature: float | None
    records_temperature: bool
    compose: str | None
    dataset: Any
    losses: tuple[SavedLoss, ...]

    @property
    def world_size(self) -> int:
        """How many ranks wrote it."""
        sizes = [part.settings.get("world_size") for loss in self.losses for part in loss.parts]
        ranks = [1 + loss.rank for loss in self.losses if loss.rank is not None]
        return max([1, *ranks, *(size for size in sizes if isinstance(size, int))])


def treatments_in(checkpoint: Any) -> list[SavedTreatment]:
    """Return what a checkpoint says of its negatives; empty if nothing was treated.

    Args:
        checkpoint: What :func:`negplug.diagnostics.saved.file.read_checkpoint` returned.
    """
    callbacks = checkpoint.get("callbacks") if isinstance(checkpoint, Mapping) else None
    found = [
        _of_callback(key, state)
        for key, state in (callbacks.items() if isinstance(callbacks, Mapping) else ())
        if isinstance(key, str) and key.partition("/")[0] == _CALLBACK and _is_callbacks(state)
    ]
    elsewhere = tuple(_losses(checkpoint, (), 0))
    if elsewhere:
        found.append(SavedTreatment("", None, None, None, False, None, None, elsewhere))
    return found


def _is_callbacks(state: Any) -> bool:
    return isinstance(state, Mapping) and "losses" in state


def _of_callback(key: str, state: Mapping[str, Any]) -> SavedTreatment:
    ranks = state.get("ranks")
    if isinstance(ranks, list):
        losses = [loss for rank, each in enumerate(ranks) for loss in _losses(each, (), 0, rank)]
    else:
        losses = list(_losses(state["losses"], (), 0))
    composed = state.get("composed")
    return SavedTreatment(
        key=key,
        sampler=state.get("sampler"),
        objective=state.get("objective"),
        temperature=state.get("temperature"),
        records_temperature="temperature" in state,
        compose=composed.get("composer") if isinstance(composed, Mapping) else None,
        dataset=state.get("dataset"),
        losses=tuple(losses),
    )


def _losses(
    value: Any, path: tuple[str, ...], depth: int, rank: int | None = None
) -> Iterator[SavedLoss]:
    """Yield the losses in a value; the callbacks' at its top are left out."""
    if not isinstance(value, Mapping) or depth > _DEPTH:
        return
    for key, inner in value.items():
        if not isinstance(key, str) or (key == "callbacks" and not path):
            continue
        if key.endswith(_EXTRA) and _is_counters(inner):
            prefix = key[: -len(_EXTRA)]
            name = ".".join([*path, *filter(None, [prefix.strip(".")])]) or "loss"
            yield _loss(name, value, prefix, rank)
        else:
            yield from _losses(inner, (*path, key), depth + 1, rank)


def _is_counters(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        type(value.get(name)) is int for name in ("format", "seed", "step")
    )


def _loss(name: str, state: Mapping[str, Any], prefix: str, rank: int | None) -> SavedLoss:
    counters = state[prefix + _EXTRA]
    scale = state.get(f"{prefix}temperature.logit_scale")
    parts = []
    for key, extra in state.items():
        inside = key[len(prefix) : -len(_EXTRA) - 1]
        if not (key.startswith(prefix) and key.endswith(f".{_EXTRA}") and inside):
            continue
        if isinstance(extra, Mapping) and isinstance(extra.get("values"), Mapping):
            settings = extra.get("settings")
            settings = dict(settings) if isinstance(settings, Mapping) else {}
            parts.append(SavedPart(_place(inside), settings, summed_up(extra["values"])))
    return SavedLoss(
        name=name,
        step=counters["step"],
        seed=counters["seed"],
        epoch=counters.get("epoch"),
        learned_temperature=math.exp(-float(scale)) if isinstance(scale, Tensor) else None,
        rank=rank,
        parts=tuple(parts),
    )


def _place(inside: str) -> str:
    """Return where a part is, in words for those of further calls of a step."""
    further = re.fullmatch(r"further\.(\d+)\.(.+)", inside)
    return f"{further[2]} of call {int(further[1]) + 2}" if further else inside
