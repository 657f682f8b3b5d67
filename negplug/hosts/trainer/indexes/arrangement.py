"""Whose row is whose: the rows of a batch, found again among the samples that it was made of.

A collate function may drop, sort, pack or repeat samples, and its source does not say so. What it
was given and what it returned do: a collated image, name or label is a copy of its sample's. So
every column of the batch (the rows of a tensor, the entries of a list) is compared with every
field of the samples, bit for bit, at a few places of each value. Nothing is changed and nothing
is called.

The column that tells the most samples apart decides, and images before names, for the loss is of
images: a function may move these and leave names where they are. Where images are augmented in the
collate function only names and labels are found again, and where labels repeat the images know
better. Of several such columns one that is in order suffices: a recipe may batch shuffled views
beside it. Images that were scaled, shifted or slightly changed are told by :mod:`.likeness`, where
this is asked for.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Hashable, Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from negplug.hosts.trainer.indexes.entries import (
    NUMBER,
    OBJECT,
    Column,
    as_array,
    columns,
    entries,
    is_picture,
)
from negplug.hosts.trainer.indexes.likeness import nearest_samples
from negplug.hosts.trainer.indexes.padded import owners_of_padded

_Fields = dict[tuple[Hashable, Any], dict[Hashable, set[int]]]
"""The samples of each value, by kind and field."""

_Held = collections.Counter[tuple[Hashable, Hashable]]
"""How often samples hold each value, by kind."""


class Arrangement(NamedTuple):
    """What a batch tells of its order.

    Attributes:
        wrong: A row and the sample that it is in place of the one that it should be; the row is -1
            for a sample that was lost, replaced or repeated. None if every row is its sample.
        by_images: Whether images told it; else it was names or labels.
    """

    wrong: tuple[int, int] | None
    by_images: bool


def arrangement_of(
    samples: Sequence[Any],
    batch: Any,
    names: Sequence[Hashable] | None = None,
    closely: bool = False,
) -> Arrangement | None:
    """Compare a batch with the samples it was made of.

    Args:
        samples: What the collate function was given, in the order that the rows should have.
        batch: What it returned.
        names: Of the samples; those of one name may stand for each other. None if all differ.
        closely: Whether images that were changed somewhat, and padded sequences, are found again
            too.

    Returns:
        Whether row b is sample b; None if nothing in the batch tells.
    """
    if any(sample is None for sample in samples):
        lost = next(number for number, sample in enumerate(samples) if sample is None)
        return Arrangement((-1, lost), True)
    fields, held = _fields(samples, names)
    best, found = (False, False, 1, False), None
    for column in columns(batch):
        for owners, whole in _owners(column, samples, fields, closely):
            known = [(row, of) for row, of in enumerate(owners) if of]
            # Numbers coincide, arrays do not: part of a column of numbers is no evidence.
            if not known or (column.kind == NUMBER and len(known) < len(owners)):
                continue
            every = whole and column.kind != NUMBER and len(known) == len(owners)
            if every and _repeated(column, len(samples), held):
                return Arrangement((-1, min(known[0][1])), True)
            wrong = _first_wrong(known, len(owners), len(samples))
            if wrong is None and 2 * len(known) < len(owners):
                continue  # too few are found again to speak for the others
            images = column.kind not in (NUMBER, OBJECT)
            apart = min(len(set(column.keys)), len({min(of) for _, of in known}))
            # Most samples are told apart, by images rather than by names, the more the better.
            rank = (2 * apart > len(samples), images, apart, wrong is None)
            if apart > 1 and rank > best:
                best, found = rank, Arrangement(wrong, images)
    return found


def _owners(
    column: Column, samples: Sequence[Any], fields: _Fields, closely: bool
) -> Iterator[tuple[list[set[int] | None], bool]]:
    """Yield the samples that each row of a column may be, by each field that it may be of.

    Also whether the column's keys are those of whole rows.
    """
    exact = [owners for (kind, _), owners in fields.items() if kind == column.kind]
    for owners in exact:
        yield [owners.get(key) for key in column.keys], True
    if not closely or column.rows is None:
        return
    yield owners_of_padded(column.rows, samples), False
    known = {key for owners in exact for key in owners}
    if known.isdisjoint(column.keys):
        near = nearest_samples(column.rows, _images(samples))
        yield [None if of is None else {of} for of in near], True


def _first_wrong(
    known: list[tuple[int, set[int]]], rows: int, samples: int
) -> tuple[int, int] | None:
    """Return the first of the known rows that is another sample than its place says.

    Rows may be those of several views, view after view or sample after sample.
    """
    views, rest = divmod(rows, samples)
    first = next(((row, min(of)) for row, of in known if row % samples not in of), None)
    if first is None:
        # In order; but then too many or too few.
        return (-1, rows % samples) if rest else None
    by_sample = not rest and all(row // views in of for row, of in known)
    return None if by_sample else first


def _repeated(column: Column, samples: int, held: _Held) -> bool:
    """Whether there are more rows than samples, and each more often than the samples hold it."""
    times = collections.Counter(column.keys)
    return len(column.keys) > samples and all(
        number > max(1, held[column.kind, key]) for key, number in times.items()
    )


def _fields(samples: Sequence[Any], names: Sequence[Hashable] | None) -> tuple[_Fields, _Held]:
    """Return the owners of each value: of numbers and text by field, of arrays by size.

    Also how often it is there, for views of a sample may be alike.
    """
    held: _Held = collections.Counter()
    names = range(len(samples)) if names is None else names
    alike = collections.defaultdict(set)
    for number, name in enumerate(names):
        alike[name].add(number)
    fields: _Fields = collections.defaultdict(dict)
    for number, sample in enumerate(samples):
        for path, _, kind, key in entries(sample):
            if kind is not None:
                field = (kind, path if kind == NUMBER else ())
                fields[field].setdefault(key, set()).update(alike[names[number]])
                held[kind, key] += 1
    return fields, held


def _images(samples: Sequence[Any]) -> list[list[Any]]:
    """Return the arrays and pictures in samples, by field; of those fields that each sample has."""
    fields = collections.defaultdict(list)
    for sample in samples:
        for path, value, *_ in entries(sample):
            array = sys.modules["numpy"].asarray(value) if is_picture(value) else as_array(value)
            if array is not None and array.ndim > 1:
                fields[path].append(array)
    return [values for values in fields.values() if len(values) == len(samples)]


def order_by_index(
    samples: Sequence[Any], indexes: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """Find the samples of a batch by the indexes that a host gives them.

    Args:
        samples: What the collate function was given.
        indexes: Those in the batch, one per row.

    Returns:
        The number of the sample of each row; and the index of each sample. None if no field of the
        samples holds these indexes, or they do not tell samples apart.
    """
    fields: dict[Any, list[int]] = collections.defaultdict(list)
    for sample in samples:
        for path, value, kind, _ in entries(sample):
            number = value.item() if kind == NUMBER and hasattr(value, "item") else value
            if isinstance(number, Integral) and not isinstance(number, bool):
                fields[path].append(int(number))
    whole = [
        named
        for named in fields.values()
        if len(named) == len(samples) and set(indexes) <= set(named)
    ]
    if not whole or len(set(indexes)) < 2:
        return None
    named = max(whole, key=lambda each: len(set(each)))
    owners: dict[int, list[int]] = collections.defaultdict(list)
    for number, index in enumerate(named):
        owners[index].append(number)
    times: collections.Counter[int] = collections.Counter()
    order = []
    for index in indexes:
        order.append(owners[index][times[index] % len(owners[index])])
        times[index] += 1
    return order, named
