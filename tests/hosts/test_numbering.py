"""Indexes that a host's batches bring, against the positions that were fetched."""

from __future__ import annotations

import random

import pytest

from negplug.hosts.trainer.indexes.numbering import Numbering, Row

SIZE, BATCH, EPOCHS = 48, 8, 3


class Samples:
    """Names, labels and images of positions; ``index``, ``of`` are functions of a position.

    Args:
        index: What the host calls the sample, given what it is, its row and a counter of fetches.
        of: Which sample there is.
        labels: How many there are.
        augmented: Whether images differ each time.
    """

    def __init__(self, index=lambda n, row, count: n, of=lambda p: p, labels=5, augmented=False):
        self.index, self.of, self.labels, self.augmented = index, of, labels, augmented
        self.count = 0

    def row(self, place, row):
        sample = self.of(place)
        index = self.index(sample, row, self.count)
        self.count += 1
        image = f"{sample} {self.count if self.augmented else 0}".encode()
        return Row(index, sample * 7 % 11 % self.labels, image)


def seen(samples, in_order=True, collate=lambda rows: rows, replacement=False, epochs=EPOCHS):
    """The numbering after some epochs, and the step in which a fault was found."""
    numbering, draws, step = Numbering(), random.Random(1), 0
    for _ in range(epochs):
        places = draws.sample(range(SIZE), SIZE)
        if replacement:
            places = draws.choices(range(SIZE), k=SIZE)
        for first in range(0, SIZE, BATCH):
            batch = places[first : first + BATCH]
            rows = [samples.row(place, row) for row, place in enumerate(batch)]
            numbering.see(batch, collate(rows), in_order)
            step += 1
            if numbering.fault:
                return numbering, step
    return numbering, None


KINDS = [{}, {"augmented": True}, {"labels": 1}, {"labels": 1, "augmented": True}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize(
    "index", [lambda n, row, count: 3, lambda n, row, count: row], ids=["constant", "of the batch"]
)
def test_indexes_that_name_nothing(index, kind, in_order):
    numbering, step = seen(Samples(index, **kind), in_order)
    assert "index" in numbering.fault
    assert step <= 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "index",
    [lambda n, row, count: count, lambda n, row, count: (count * 31 + n) % SIZE],
    ids=["counted", "at random"],
)
def test_indexes_that_are_new_each_time(index, kind):
    numbering, step = seen(Samples(index, **kind))
    if kind == KINDS[-1]:
        # It may as well be a data set that chooses its samples anew.
        assert not numbering.fault
        assert "had the index" in numbering.doubt
    else:
        assert numbering.fault
        assert step <= SIZE // BATCH + 2


def halves(n, row, count):
    return n % (SIZE // 2)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_two_data_sets_that_count_alike(kind):
    numbering, _ = seen(Samples(halves, **kind))
    assert "different samples (positions" in numbering.fault


draws = random.Random(0)
KEPT = {
    "positions": {},
    "hashed": {"index": lambda n, row, count: (n + 1) * 0x9E3779B97F4A7C15 % 2**63},
    "repeated": {"of": lambda p: p % 12},
    "next one for a broken image": {"of": lambda p: p + (p in (3, 11))},
    "another one for a broken image": {"of": lambda p: p if p != 3 else draws.randrange(SIZE)},
    "chosen by itself": {"of": lambda p: draws.randrange(SIZE)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("replacement", [False, True])
def test_indexes_that_name_samples(name, kind, replacement):
    numbering, _ = seen(Samples(**KEPT[name], **kind), replacement=replacement)
    assert not numbering.fault
    if name != "chosen by itself":
        assert not numbering.doubt or "another" in name


@pytest.mark.parametrize(
    "collate",
    [lambda rows: rows[::-1], lambda rows: rows[2:], lambda rows: [*rows[:6], *rows[:2]]],
    ids=["moved", "lost", "repeated"],
)
def test_rows_that_are_moved_with_their_indexes(collate):
    for kind in KINDS:
        numbering, _ = seen(Samples(**kind), in_order=False, collate=collate)
        assert not numbering.fault
