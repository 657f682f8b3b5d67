"""Uniform draws without replacement among the rows of a pool that have another id."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, triton_refusal
from negplug.kernels.random.numbers import RandomNumbers
from negplug.kernels.random.sorted_ids import SortedIds

__all__ = ["OTHERS", "Others", "others_of"]


class Others(Protocol):
    """The rows of a pool that have another id than each anchor."""

    @property
    def available(self) -> Tensor:
        """How many there are of each anchor, ``[N]`` int64; computed when it is asked for."""

    def draw(self, count: int, random: RandomNumbers) -> tuple[Tensor, Tensor | None]:
        """Return M distinct ones of each anchor, uniformly.

        Args:
            count: M ≥ 1.
            random: On the device of the ids.

        Returns:
            ``columns [N, M]`` int64, and a mask ``[N, M]`` as that of
            :func:`negplug.kernels.random.distinct.distinct_places`.
        """


OTHERS: Operation[None] = Operation(
    "distinct draws of other ids",
    None,
    (
        Kernel("triton", lazily("random.fused_ids", "FusedIds"), triton_refusal),
        Kernel("torch", lambda: SortedIds),
    ),
)


def others_of(anchor_ids: Tensor, pool_ids: Tensor, serves: Tensor | None = None) -> Others:
    """Return the rows of a pool that have another id than each anchor, to draw from.

    Args:
        anchor_ids: ``[N]`` int64, comparable with ``==`` (an unknown anchor is not -1).
        pool_ids: ``[K]`` int64, K ≥ 1.
        serves: ``[K]`` bool, False at rows that serve nobody.
    """
    others: Others = OTHERS.kernel(pool_ids.device, None)(anchor_ids, pool_ids, serves)
    return others
