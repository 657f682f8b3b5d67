"""Values of a column as classes: integers that are equal where the values are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from negplug.contract.ids import UNKNOWN


def as_classes(name: str, values: list[Any]) -> Tensor:
    """Return values of samples as classes ``[n]`` int64, -1 where unknown.

    Integers from -1 on stay as they are; other values are numbered in the order in which they come
    first. ``None``, NaN and negative integers are unknown.

    Args:
        name: Of the column, for messages.
        values: One for each sample.

    Raises:
        TypeError: If a value is none that can be told from others, such as a list.
        ValueError: If all are unknown.
    """
    known = [None if _missing(value) else value for value in values]
    for value in known:
        if not (value is None or isinstance(value, (str, bytes, bool, int, float, tuple))):
            raise TypeError(
                f"the column {name!r} holds {type(value).__name__}, which names no class; give "
                f"integers or strings"
            )
    if all(value is None for value in known):
        raise ValueError(
            f"the column {name!r} holds no known value for any of {len(known)} samples"
        )
    whole = (value is None or (isinstance(value, int) and value < 1 << 62) for value in known)
    if all(whole):
        return torch.tensor([UNKNOWN if value is None else int(value) for value in known])
    numbers: dict[Any, int] = {}
    codes = [UNKNOWN if v is None else numbers.setdefault(v, len(numbers)) for v in known]
    return torch.tensor(codes)


def _missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas
        return True
    negative = isinstance(value, int) and value < 0
    return negative or (isinstance(value, float) and value != value)
