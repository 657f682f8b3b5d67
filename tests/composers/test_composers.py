"""Composers: permutations, compared with naive references and with a uniform order."""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np
import pytest
import torch

from negplug import Composer, Draws, Epoch, make_composer
from negplug.composers.balanced import Balanced
from negplug.composers.clustered import reverse_cuthill_mckee
from negplug.composers.neighbors import neighbors
from negplug.composers.random_walk import walked
from negplug.contract.dataset import DatasetAccess
from negplug.testing import check_composer

SIZE, CLASSES, WIDTH, BATCH = 480, 24, 16, 20
CPU = torch.device("cpu")


def numbers(key=0):
    return Draws(3, key).random(-1, CPU)


def clusters(spread=0.25):
    """Embeddings at unit length around the centres of classes, and the classes."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(SIZE) % CLASSES
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    rows = centres[classes] + spread * torch.randn(SIZE, WIDTH, generator=generator)
    return torch.nn.functional.normalize(rows), classes


def epoch(size=SIZE, batch=BATCH, key=0, rows=None, **known):
    """An epoch of the first ``size`` samples, in random order."""
    samples = torch.randperm(size, generator=torch.Generator().manual_seed(key))
    rows = clusters()[0] if rows is None else rows
    sizes = (batch,) * (size // batch) + ((size % batch,) if size % batch else ())
    data = DatasetAccess(size, **known)
    return Epoch(samples, sizes, numbers(key), data, rows[samples])


EMBEDDED = [
    "random_walk(num_neighbors=10, num_candidates=None)",
    "random_walk(5, 0.3, 240)",
    "clustered()",
    "clustered(num_neighbors=5, num_candidates=200)",
]


@pytest.mark.parametrize("expression", EMBEDDED)
def test_batches_hold_more_hard_negatives_than_uniform_ones(expression):
    """Of the pairs in a batch, the share whose similarity is among the largest hundredth of all."""
    rows, _ = clusters()
    similarity = rows @ rows.T
    others = similarity[~torch.eye(SIZE, dtype=torch.bool)]
    limit = others.quantile(0.99)
    shares = []
    for key in range(5):
        given = epoch(key=key)
        batches = given.samples[make_composer(expression).order(given)].view(-1, BATCH)
        pairs = similarity[batches[:, :, None], batches[:, None, :]]
        hard = (pairs >= limit).float().sum((1, 2)) - BATCH  # without each with itself
        shares.append((hard / (BATCH * (BATCH - 1))).mean().item())
    mean = sum(shares) / len(shares)
    error = (np.var(shares, ddof=1) / len(shares)) ** 0.5
    # A uniform batch has 0.01. Student's t with four degrees of freedom: 99.9 % one-sided.
    assert mean - 7.17 * error > 0.02, shares


def test_neighbours_are_the_nearest_of_a_naive_search():
    given = epoch()
    near = neighbors(given, 7, None)
    similarity = given.embeddings.double() @ given.embeddings.double().T
    for place in range(0, SIZE, 13):
        ordered = sorted(
            (p for p in range(SIZE) if p != place), key=lambda p: -similarity[place, p]
        )
        assert near[place].tolist() == ordered[:7]


def test_neighbours_among_candidates_are_the_nearest_of_those():
    given, width = epoch(), 50
    near = neighbors(given, 4, width)
    first = int(numbers().integers(SIZE, 1))
    candidates = [(first + number) % SIZE for number in range(width)]
    similarity = given.embeddings.double() @ given.embeddings.double().T
    for place in range(0, SIZE, 17):
        there = [p for p in candidates if p != place]
        assert near[place].tolist() == sorted(there, key=lambda p: -similarity[place, p])[:4]


def test_a_walk_takes_neighbours_of_where_it_has_been():
    near = neighbors(epoch(), 10, None)
    sizes = (BATCH,) * (SIZE // BATCH)
    order = walked(near, sizes, 0.2, numbers())
    assert sorted(order) == list(range(SIZE))
    begun = []
    for first in range(0, SIZE, BATCH):
        batch = order[first : first + BATCH]
        near_before = ({*near[place].tolist()} for place in batch)
        reached: set[int] = set()
        fresh = 0
        for place, nearby in zip(batch, near_before, strict=True):
            fresh += place not in reached
            reached |= nearby
        begun.append(fresh)
    # A batch of unrelated samples would have begun 20 times; the first walks find neighbours.
    assert all(count >= 1 for count in begun)
    assert sum(begun[:6]) <= 18


def test_a_walk_that_always_nearly_returns_stays_at_its_start():
    near = np.array([[(place + step) % 60 for step in range(1, 6)] for place in range(60)])
    order = walked(near, (6,), 0.999, numbers())
    start = order[0]
    assert {(place - start) % 60 for place in order} == set(range(6))


def bandwidth(near, order):
    place = {sample: number for number, sample in enumerate(order)}
    edges = ((i, int(j)) for i, row in enumerate(near) for j in row)
    return max(abs(place[i] - place[j]) for i, j in edges)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_shuffled_path_has_bandwidth_one(seed):
    names = torch.randperm(40, generator=torch.Generator().manual_seed(seed)).tolist()
    near = np.zeros((40, 1), dtype=np.int32)
    for before, after in itertools.pairwise(names):
        near[before] = after
    near[names[-1]] = names[-1]  # the end has no other neighbour
    order = reverse_cuthill_mckee(near)
    assert sorted(order) == list(range(40))
    assert bandwidth(near, order) == 1


def test_the_order_is_that_of_scipy_in_its_bandwidth():
    scipy = pytest.importorskip("scipy")
    from scipy.sparse.csgraph import reverse_cuthill_mckee as theirs

    near = neighbors(epoch(), 5, None)
    matrix = scipy.sparse.lil_array((SIZE, SIZE))
    for row, others in enumerate(near):
        matrix[row, others] = 1
    reference = theirs(scipy.sparse.csr_matrix(matrix + matrix.T), symmetric_mode=True)
    order = reverse_cuthill_mckee(near)
    assert bandwidth(near, order) <= 1.2 * bandwidth(near, reference.tolist())


@pytest.mark.parametrize("counts", [(120, 120, 120), (300, 60, 3), (7, 7, 7, 7, 400)])
def test_every_batch_holds_the_classes_in_their_proportions(counts):
    classes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    given = epoch(len(classes), 32, rows=torch.zeros(len(classes), 1))
    order = Balanced(classes).order(given)
    found = classes[given.samples[order]]
    for first in range(0, len(classes) - 31):  # any 32 in succession, so any rank's part too
        held = collections.Counter(found[first : first + 32].tolist())
        for kind, count in enumerate(counts):
            # Each class is off by less than one where all the others are.
            assert abs(held[kind] - 32 * count / len(classes)) <= len(counts)


def test_small_groups_do_not_meet():
    groups = torch.arange(400) // 4  # a hundred patients with four images each
    given = epoch(400, 40, rows=torch.zeros(400, 1))
    batches = groups[given.samples[Balanced(groups).order(given)]].view(-1, 40)
    assert all(len(batch.unique()) == 40 for batch in batches)


def test_classes_from_a_file_a_column_and_none(tmp_path):
    classes = clusters()[1]
    np.save(tmp_path / "classes.npy", classes.numpy())
    orders = [
        make_composer(f"balanced(by={str(tmp_path / 'classes.npy')!r})").order(epoch()),
        make_composer("balanced(by='targets')").order(epoch(column={"targets": classes}.get)),
        Balanced(classes).order(epoch()),
    ]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])
    unknown = Balanced(classes.where(classes > 2, -1)).order(epoch())
    assert sorted(unknown.tolist()) == list(range(SIZE))


@pytest.mark.parametrize("expression", [*EMBEDDED, "balanced(by='targets')"])
def test_the_conformance_kit_passes_each(expression):
    check_composer(expression)


@pytest.mark.parametrize("expression", EMBEDDED)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_data_sets_and_samples_without_an_embedding(expression, size):
    given = epoch(size, 2, rows=torch.zeros(size, 4))
    assert sorted(make_composer(expression).order(given).tolist()) == list(range(size))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("random_walk(0)", "random_walk: num_neighbors must be at least 1, got 0"),
        ("random_walk(restart=1.0)", r"random_walk: restart must be in \[0.0, 1.0\), got 1.0"),
        ("random_walk(8, 0.1, 8)", "random_walk: num_candidates must be at least 9, got 8"),
        ("clustered(True)", "clustered: num_neighbors must be an integer, got True"),
        ("clustered(3, 2.5)", "clustered: num_candidates must be an integer, got 2.5"),
        ("balanced()", r"balanced\(\): missing a required argument: 'by'"),
        ("balanced(by=3)", "balanced: by must be the path of a .npy file, .*, got 3"),
        ("balanced('x', parent=True)", "balanced: parent=True is said of a file or a tensor"),
        ("in_batch()", "unknown composer 'in_batch'; there are balanced, clustered, random_walk"),
    ],
)
def test_bad_input_is_one_sentence(expression, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_composer(expression)


def test_a_table_of_another_data_set_is_refused():
    with pytest.raises(ValueError, match="balanced: the metadata has 5 entries, but the data set"):
        Balanced(torch.arange(5)).order(epoch())


class Twice(Composer):
    def compose(self, epoch):
        return torch.zeros(len(epoch.samples), dtype=torch.int64)


class Floating(Composer):
    def compose(self, epoch):
        return torch.arange(float(len(epoch.samples)))


class Fewer(Composer):
    def compose(self, epoch):
        return torch.arange(len(epoch.samples) - 1)


@pytest.mark.parametrize("kind", [Twice, Floating, Fewer])
def test_what_is_no_permutation_is_refused(kind):
    with pytest.raises(ValueError, match="must return each number from 0 to 479 once"):
        kind().order(epoch())
    with pytest.raises(AssertionError, match="must return each number"):
        check_composer(kind)


def test_the_share_of_a_class_in_a_batch_is_closer_than_a_uniform_one():
    classes = (torch.arange(SIZE) % 8 == 0).long()
    given = epoch()
    held = classes[given.samples[Balanced(classes).order(given)]].view(-1, BATCH).sum(1)
    uniform = classes[given.samples].view(-1, BATCH).sum(1)
    assert held.double().var() < 0.5 < uniform.double().var()
    assert math.isclose(held.double().mean(), BATCH / 8)
