"""What tells the weights of a model from others, and from themselves after a step."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.nn.parameter import is_lazy

from negplug.kernels.torch_private import write_count

_VALUES = 4
"""So many values of each parameter are compared, at least."""


class Weights(NamedTuple):
    """What tells weights from others.

    Attributes:
        writes: How often they were written to, but for writes through ``.data``.
        values: A few of each parameter, as text: NaN is like NaN.
    """

    writes: int
    values: str


def weights_of(model: Any) -> Weights:
    """Return what tells the weights of a model from others, without those that are still lazy."""
    known = [weights for weights in model.parameters() if not is_lazy(weights)]
    return Weights(sum(map(write_count, known)), str([*map(_few, known)]))


def _few(weights: Any) -> list[Any]:
    if weights.is_meta:
        return []
    own = weights.detach()
    own = (own.to_local() if hasattr(own, "to_local") else own).reshape(-1)  # of a sharded model
    few: list[Any] = own[:: max(1, len(own) // _VALUES)].tolist()
    return few
