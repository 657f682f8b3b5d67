"""What declared states hold, summed up: how full a memory is, where chains stand.

:class:`.Stateful` saves plain integers and tensors. The ``rows``, ``names`` and ``count`` of a
:class:`.RememberingSampler` are known by their names, all else by its kind of number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from negplug.contract.ids import UNKNOWN

# How many of the most frequent entries are listed.
_MOST = 5

_NAMES = ("ids", "indexes", "labels")
"""What a memory keeps beside each row, in the order of ``names``."""


def summed_up(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the declared values of one part hold, as numbers, text and lists.

    Args:
        values: By name, as :meth:`.Stateful.get_extra_state` has them.
    """
    found: dict[str, Any] = {}
    rows, names, count = (values.get(name) for name in ("rows", "names", "count"))
    if (
        isinstance(rows, Tensor)
        and isinstance(names, Tensor)
        and isinstance(count, int)
        and names.shape[:1] == (len(_NAMES),)
    ):
        written = min(count, len(rows))
        size = {"written": written, "room": len(rows), "shape": [*rows.shape]}
        found["rows"] = size | _form(rows)
        for name, entries in zip(_NAMES, names, strict=True):
            found[name] = _integers(entries[:written])
        values = {name: value for name, value in values.items() if name not in ("rows", "names")}
    return found | {name: _one(value) for name, value in values.items()}


def _one(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value if isinstance(value, (bool, int, float, str)) else type(value).__name__
    found = {"shape": [*value.shape], **_form(value)}
    if value.dtype == torch.bool:
        return found | {"true": int(value.sum())}
    if not value.is_floating_point():
        return found | _integers(value)
    # Of embeddings [V, n, d] neither says anything.
    return found | (_numbers(value) if value.ndim < 3 else {})


def _form(value: Tensor) -> dict[str, str]:
    return {"dtype": str(value.dtype).removeprefix("torch.")}


def _integers(value: Tensor) -> dict[str, Any]:
    """Return how many are known, how many differ, and which occur most often."""
    known = value[value > UNKNOWN]
    entries, times = torch.unique(known, return_counts=True)
    order = times.argsort(descending=True, stable=True)[:_MOST]
    repeated = [(int(entries[at]), int(times[at])) for at in order.tolist() if times[at] > 1]
    found = {"entries": value.numel(), "known": len(known), "distinct": len(entries)}
    return found | {"most_repeated": [list(pair) for pair in repeated]}


def _numbers(value: Tensor) -> dict[str, Any]:
    """Return how many are finite, and their range."""
    finite = value[value.isfinite()].double()
    found: dict[str, Any] = {"entries": value.numel(), "finite": len(finite)}
    if len(finite):
        least, greatest = finite.aminmax()
        found |= {"least": float(least), "mean": float(finite.mean()), "greatest": float(greatest)}
    return found
