"""What a step of the chains leaves behind, held back until the step is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from negplug.samplers.chains.cache import ShownKeys
from negplug.samplers.chains.step import Measures


class Ended(NamedTuple):
    """Where the chains of a step ended, on all ranks.

    Attributes:
        names: ``[3, N]`` int64: data set index, view and final state of each chain.
        score: ``[N]``, the logit of the final state.
        room: Gives the number of views, and that of samples in the data set.
        size: The latter, if it was said.
        measures: What is worth logging of this rank's chains.
    """

    names: Tensor
    score: Tensor
    room: Callable[[], tuple[int, int]]
    size: int | None
    measures: Measures


class Visited(NamedTuple):
    """What a step leaves behind.

    Attributes:
        ended: Where its chains ended; None if nothing was proposed.
        shown: The keys to cache; None if embeddings are not cached.
    """

    ended: Ended | None
    shown: ShownKeys | None
