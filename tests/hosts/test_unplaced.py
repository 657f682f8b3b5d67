"""Indexes that a host's batches bring, where nobody knows what was fetched."""

from __future__ import annotations

import random

import pytest

from negplug.hosts.trainer.indexes.numbering import Row
from negplug.hosts.trainer.indexes.unplaced import Unplaced

SIZE, BATCH, EPOCHS = 48, 8, 3


def seen(index, labels=5, label=None, of=lambda n: n, augmented=False):
    """What is known after some epochs.

    Args:
        index: What the host calls the sample, given what it is, its row and a counter.
        labels: How many there are.
        label: That of a sample; of ``labels`` by default.
        of: Which sample there is, given a position.
        augmented: Whether images differ each time.
    """
    unplaced, draws, count = Unplaced(), random.Random(1), 0
    label = label or (lambda n: n * 7 % 11 % labels)
    for epoch in range(EPOCHS):
        samples = [of(n) for n in draws.sample(range(SIZE), SIZE)]
        for first in range(0, SIZE, BATCH):
            rows = []
            for row, n in enumerate(samples[first : first + BATCH]):
                image = f"{n} {count if augmented else 0}".encode()
                rows.append(Row(index(n, row, count), label(n), image))
                count += 1
            unplaced.see(rows, epoch)
    return unplaced


KINDS = [{}, {"augmented": True}, {"labels": 1}, {"labels": 1, "augmented": True}]


@pytest.mark.parametrize("kind", KINDS)
def test_one_index_for_all(kind):
    assert seen(lambda *_: 3, **kind).fault == "all 8 samples of a batch have the index 3"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "index",
    [lambda n, row, count: row, lambda n, row, count: n % 6],
    ids=["of the batch", "few"],
)
def test_few_indexes_for_many(index, kind):
    found = seen(index, **kind)
    if "labels" in kind:  # a stream may repeat a few samples
        assert "samples have no more than" in found.doubt
        assert not found.fault
    else:
        assert "different samples have the index" in found.fault


@pytest.mark.parametrize("kind", KINDS[:2])
def test_two_shards_that_count_alike(kind):
    found = seen(lambda n, row, count: n % (SIZE // 2), **kind)
    assert "different samples have the index" in found.fault


@pytest.mark.parametrize("kind", KINDS[:2])
def test_indexes_that_are_another_samples_in_the_next_epoch(kind):
    found = seen(lambda n, row, count: count % SIZE, **kind)
    assert "different samples have the index" in found.doubt
    assert not found.fault  # labels may be drawn anew


draws = random.Random(0)
KEPT = {
    "positions": {},
    "hashed": {"index": lambda n, row, count: (n + 1) * 0x9E3779B97F4A7C15 % 2**63},
    "repeated in a batch": {"of": lambda n: n % 12},
    "one image": {"index": lambda *_: 7, "of": lambda n: 0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KEPT)
def test_indexes_that_name_samples(name, kind):
    if name == "one image" and "augmented" in kind:
        pytest.skip("a stream of one sample, augmented, is no data set")
    found = seen(**{"index": lambda n, row, count: n} | KEPT[name] | kind)
    assert not found.fault
    assert not found.doubt


def test_labels_that_are_drawn_in_each_epoch():
    found = seen(lambda n, row, count: n, label=lambda n: draws.randrange(4))
    assert not found.fault
    assert found.doubt
