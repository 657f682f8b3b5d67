"""Sequences of tokens found again that were padded or cut to one length.

Samples of text are lists of token numbers, each of a length of its own. Whatever pads them, a row
holds the whole sequence and one value over and over before or behind it; a sequence that is longer
than the row is cut at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

_DEPTH = 4
_LONGEST = 1 << 16


def owners_of_padded(rows: Any, samples: Sequence[Any]) -> list[set[int] | None]:
    """Return for each row which samples hold the sequence that was padded to it, None if none do.

    Args:
        rows: ``[n, L]`` integers, a tensor or NumPy's array.
        samples: What the batch was made of.
    """
    array = torch.as_tensor(rows)
    if array.ndim != 2 or array.dtype not in (torch.int64, torch.int32, torch.int16):
        return []
    length, known = array.shape[1], dict[tuple[int, ...], set[int]]()
    for number, sample in enumerate(samples):
        for sequence in _sequences(sample):
            known.setdefault(tuple(sequence[:length]), set()).add(number)
    lengths = {len(sequence) for sequence in known}
    return [_owners(row, known, lengths) for row in array.tolist()]


def _owners(
    row: list[int], known: Mapping[tuple[int, ...], set[int]], lengths: set[int]
) -> set[int] | None:
    # The shortest padding first: what a sequence ends with may look like more of it.
    for longest in range(len(row), len(row) - 1 - _run(row[::-1]), -1):
        if longest in lengths and (owners := known.get(tuple(row[:longest]))):
            return owners
    for first in range(_run(row) + 1):
        if len(row) - first in lengths and (owners := known.get(tuple(row[first:]))):
            return owners
    return None


def _run(row: list[int]) -> int:
    """Return how often the first value stands at the beginning."""
    return next((n for n, value in enumerate(row) if value != row[0]), len(row))


def _sequences(value: Any, depth: int = _DEPTH) -> Iterator[list[int]]:
    """Yield the sequences of integers in a sample."""
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        whole = "int" in str(value.dtype) and value.ndim in (1, 2)  # images have more
        value = value.tolist() if whole else None
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)) or not 0 < len(value) < _LONGEST:
        return
    if all(isinstance(each, Integral) for each in value):
        yield list(value)
    elif depth:
        for part in value:
            yield from _sequences(part, depth - 1)
