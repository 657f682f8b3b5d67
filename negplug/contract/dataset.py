"""What a run can say of its data set as a whole, beyond the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Encoder = Callable[[Tensor], tuple[Tensor, ...]]
"""Maps data set indexes ``[n]`` to the V views ``[n, d]`` of those samples, with gradient."""


Column = Callable[[str], Tensor]
"""Maps the name of a column to the classes ``[n]`` int64 of the samples, -1 where unknown; to the
very same tensor as long as these are the same."""


@dataclass(frozen=True, eq=False)
class ParentSamples:
    """The samples of a subset in the data set that it was taken from.

    Attributes:
        indexes: ``[n]`` int64, on the CPU: where each is there.
        size: Number of samples there; None if unknown.
    """

    indexes: Tensor
    size: int | None


@dataclass(frozen=True)
class DatasetAccess:
    """The data set that a batch's indexes count.

    Attributes:
        size: Number of samples; None if unknown.
        encode: Embeds samples that are not in the batch with the current parameters, through the
            recipe's own transform and encoder; None if there is no such way. The first call of a
            run must be made by all ranks, so that what cannot be embedded fails on all.
        unencoded: Why ``encode`` is None, as a clause.
        parent: Where the samples are in another data set, if this one is a subset of it.
        column: Gives a column of the data set by its name; None if there is no such way.
    """

    size: int | None = None
    encode: Encoder | None = None
    unencoded: str = "encode= was not given (a function from data set indexes to views)"
    parent: ParentSamples | None = None
    column: Column | None = None
