"""Sequences of tokens found again that were padded or cut to one length.

Samples of text are lists of token numbers, each of a length of its own. Whatever pads them, a row
holds the whole sequence and one value over and over before or behind it; a sequence that is longer
than the row is cut at its end.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

_DEPTH = 4
_LONGEST = 1 << 16
_SHORTEST = 3
_PADDINGS = 3  # of the values that most rows end with


def owners_of_padded(rows: Any, samples: Sequence[Any]) -> list[set[int] | None]:
    """Return for each row which samples hold the sequence that was padded to it.

    Nothing unless every row is found, all padded with one value on one side. Short sequences, and
    those of one value, say nothing: labels and masks look like such.

    Args:
        rows: ``[n, L]`` integers, a tensor or NumPy's array.
        samples: What the batch was made of.
    """
    if rows.ndim != 2 or "int" not in str(rows.dtype):
        return []
    found, length = rows.tolist(), rows.shape[1]
    known = dict[tuple[int, ...], set[int]]()
    for number, sample in enumerate(samples):
        for sequence in _sequences(sample):
            if len(sequence) >= _SHORTEST and len(set(sequence)) > 1:
                known.setdefault(tuple(sequence[:length]), set()).add(number)
    if not known:
        return []
    for behind in (True, False):
        ends = collections.Counter(row[-1 if behind else 0] for row in found)
        for padding, _ in ends.most_common(_PADDINGS):
            owners = [_owners(row, padding, behind, known) for row in found]
            if all(owners):
                return owners
    return []


def _owners(
    row: list[int], padding: int, behind: bool, known: Mapping[tuple[int, ...], set[int]]
) -> set[int] | None:
    # The least padding first: what a sequence ends with may look like more of it.
    for cut in range(len(row)):
        kept = row[: len(row) - cut] if behind else row[cut:]
        if owners := known.get(tuple(kept)):
            return owners
        if kept[-1 if behind else 0] != padding:
            return None
    return None


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
