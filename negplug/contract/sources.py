"""What a sampler may make of the negatives of its source: refused where it cannot work."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from negplug.contract.negatives import Negatives
from negplug.contract.part import Part

Offered = tuple[Part, tuple[Negatives, ...]]


def offered_to(sampler: Part, memo: Mapping[Any, Any]) -> Iterator[Offered]:
    """Yield the sources that a sampler has read for a batch, each with what it offers.

    Args:
        sampler: The reader.
        memo: What samplers have chosen for this batch.
    """
    todo: list[nn.Module] = [*sampler.children()]
    while todo:
        module = todo.pop(0)
        if not isinstance(module, Part):
            todo += module.children()
        elif module in memo:
            yield module, memo[module][0]


def check_draws_kept(
    sampler: Part, memo: Mapping[Any, Any], negatives: tuple[Negatives, ...]
) -> None:
    """Raise ``ValueError`` if a sampler has chosen among draws from the softmax.

    Draws stand for all negatives together; some of them stand for nothing.

    Args:
        sampler: The sampler.
        memo: As of :func:`offered_to`.
        negatives: What it returns.
    """
    drawn = None
    for source, offered in offered_to(sampler, memo):
        if _hands_on(negatives, offered):
            return  # a sampler that takes turns may have asked others too
        drawn = source if offered[0].estimator == "posterior" else drawn
    if drawn is not None:
        raise ValueError(
            f"{sampler}: {drawn} already draws from the softmax, and its draws stand for all "
            f"negatives together, so none can be chosen among them; choose before it does, with "
            f"{sampler} as its source"
        )


def _hands_on(negatives: tuple[Negatives, ...], offered: tuple[Negatives, ...]) -> bool:
    """Return whether negatives are those that a source offers, whatever their weights."""
    return len(negatives) == len(offered) and all(
        mine.choice is given.choice and mine.estimator == given.estimator
        for mine, given in zip(negatives, offered, strict=True)
    )


def several_pools(sampler: Part, memo: Mapping[Any, Any], error: ValueError) -> ValueError | None:
    """Return what to raise for an error in ``(offered,) = self.source(batch)``, None for others.

    Args:
        sampler: The sampler, whose own code raised.
        memo: As of :func:`offered_to`.
        error: What it raised.
    """
    if "too many values to unpack" not in str(error):
        return None
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_locals.get("self") is not sampler:
        return None
    for source, offered in offered_to(sampler, memo):
        if len(offered) > 1:
            return ValueError(
                f"{sampler}: its source {source} offers negatives of {len(offered)} pools, and "
                f"sample() takes one; join them, negplug.enumerated(self.source(batch), "
                f"batch.anchors), or put {sampler} inside, around each tier"
            )
    return None
