"""The rows of a batch are found again among the samples that it was made of."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from negplug.hosts.trainer.indexes.arrangement import arrangement_of, order_by_index

SIZE = 6
Pair = collections.namedtuple("Pair", ["image", "label"])


def misplaced(of, batch, **kwargs):
    """False for a batch in order, None for one that tells nothing."""
    found = arrangement_of(of, batch, **kwargs)
    return None if found is None else found.wrong or False


def samples(label=lambda number: number % 3):
    images = torch.randn(SIZE, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return [(list(images[n]), label(n), f"{n}.png") for n in range(SIZE)]


def first_views(of):
    return torch.stack([views[0] for views, *_ in of])


def views_together(of):
    return torch.cat([torch.stack([views[v] for views, *_ in of]) for v in range(2)])


def in_one_tensor(of):
    return torch.stack([torch.stack(views) for views, *_ in of])


def as_arrays(of):
    return {"image": first_views(of).numpy(), "label": np.array([label for _, label, _ in of])}


def as_lists(of):
    return tuple(zip(*of, strict=True))


def augmented(of):
    noisy = first_views(of) + torch.randn(len(of), 3, 4, 4, generator=torch.Generator())
    return noisy, torch.tensor([label for _, label, _ in of])


def shuffled_beside(of):
    rolled = first_views(of).roll(1, 0)
    return {"other": rolled, "anchor": first_views(of)}


COLLATES = [
    default_collate,
    first_views,
    views_together,
    in_one_tensor,
    as_arrays,
    as_lists,
    list,
    augmented,
    shuffled_beside,
    lambda of: {"names": [name for *_, name in of], "mean": first_views(of).mean()},
    lambda of: Pair(first_views(of).double(), [label for _, label, _ in of]),
]
REPEATABLE = [augmented, COLLATES[-2]]
IN_ORDER = pytest.mark.parametrize("collate", COLLATES)


@IN_ORDER
def test_samples_that_are_kept(collate):
    assert misplaced(samples(), collate(samples())) is False


BROKEN = {
    "reversed": (lambda of: of[::-1], (0, 5)),
    "sorted": (lambda of: sorted(of, key=lambda sample: -ord(sample[2][0]) % 4), None),
    "one lost": (lambda of: of[:2] + of[3:], (2, 3)),
    "the last lost": (lambda of: of[:-1], (-1, 5)),
    "repeated in place of others": (lambda of: [s for s in of[:3] for _ in range(2)], (1, 0)),
    "each twice": (lambda of: [s for s in of for _ in range(2)], (-1, 0)),
    "all again": (lambda of: [*of, *of], (-1, 0)),
    "filled up": (lambda of: [of[0], *of[:-1]], (1, 0)),
}


@pytest.mark.parametrize("name", BROKEN)
@IN_ORDER
def test_samples_that_are_not(collate, name):
    rearrange, expected = BROKEN[name]
    found = misplaced(samples(), collate(rearrange(samples())))
    if collate in REPEATABLE and len(rearrange(samples())) > SIZE:
        assert found is False  # labels and names of several views look alike
        return
    assert found not in (False, None)
    if expected is not None and collate in (default_collate, first_views, as_arrays, list):
        assert found == expected


@pytest.mark.parametrize(
    ("label", "found"),
    [(lambda number: number % 2, False), (lambda number: 7, None)],
    ids=["two labels", "one label"],
)
def test_a_column_speaks_only_if_it_tells_samples_apart(label, found):
    given = samples(label)
    assert misplaced(given, augmented(given)) is found


def test_what_tells_more_samples_apart_decides():
    # The two labels stay in order by chance, the images do not.
    given = samples(lambda number: number // 3)
    moved = [given[n] for n in (1, 2, 0, 4, 5, 3)]
    assert misplaced(given, default_collate(moved)) == (0, 1)


def test_batches_in_which_no_sample_is_found():
    given = samples()
    packed = torch.stack(
        [torch.cat([a[0][0], b[0][0]]) for a, b in zip(given[::2], given[1::2], strict=True)]
    )
    for batch in (packed, first_views(given) * 2, torch.ones(SIZE, 5), {"loss": 3.0}, "text", []):
        assert misplaced(given, batch) is None


def test_the_very_samples_are_known_whatever_they_hold():
    given = [{"nothing": object()} for _ in range(SIZE)]
    assert misplaced(given, list(given)) is False
    assert misplaced(given, tuple(given[::-1])) == (0, SIZE - 1)


def test_a_sample_that_could_not_be_read():
    given = [*samples()[:3], None, *samples()[4:]]
    read = [sample for sample in given if sample is not None]
    for batch in (default_collate(read), default_collate([*read, read[0]])):
        assert misplaced(given, batch) == (-1, 3)


@pytest.mark.parametrize(
    "values",
    [
        [torch.tensor(n) for n in range(SIZE)],
        [np.float32(0.1 * n) for n in range(SIZE)],
        [n / 7 for n in range(SIZE)],
        [10**400 if n == 2 else n for n in range(SIZE)],
        [torch.full((40,), n, dtype=torch.float16) for n in range(SIZE)],
        [np.arange(30)[::-1] + n for n in range(SIZE)],
        [[n] * 30 for n in range(SIZE)],
        [b"%d" % n for n in range(SIZE)],
    ],
)
def test_kinds_of_values(values):
    given = [{"a": value, "b": None} for value in values]
    whole = [value[:] if isinstance(value, list) else value for value in values]
    assert misplaced(given, {"a": whole}) is False
    assert misplaced(given, {"a": whole[::-1]}) == (0, SIZE - 1)


def test_objects_with_attributes():
    class Sample:
        def __init__(self, image):
            self.image = image

    images = list(torch.randn(SIZE, 5))
    given, batch = [Sample(image) for image in images], Sample(torch.stack(images))
    assert misplaced(given, batch) is False
    assert misplaced(given, Sample(batch.image.flip(0))) == (0, SIZE - 1)
    assert misplaced(given, functools.partial(print)) is None


def with_images(change):
    """Names in place, and images as NumPy leaves them."""
    images = first_views(samples()).numpy()
    return torch.from_numpy(np.ascontiguousarray(change(images))), [name for *_, name in samples()]


CHANGES = {
    "as they are": lambda x: x,
    "scaled": lambda x: (x - 0.4) / 0.3,
    "by channel": lambda x: (x - np.arange(3)[:, None, None]) / np.array([2, 3, 4])[:, None, None],
    "each by itself": lambda x: (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3))[0],
    "with noise": lambda x: x + 0.05 * np.random.default_rng(0).standard_normal(x.shape),
    "in half precision": lambda x: x.astype("float16"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_images_go_before_names_and_are_known_when_changed(name):
    change = CHANGES[name]
    assert misplaced(samples(), with_images(change), closely=True) is False
    moved = with_images(lambda x: change(x[::-1]))
    assert misplaced(samples(), moved, closely=True) == (0, SIZE - 1)


def test_images_of_which_nothing_is_said():
    """Cropped or turned to their negative; names speak for them, and it is known that they do."""
    for change in (lambda x: x[..., ::-1], lambda x: 1 - x, lambda x: x.max() - x[::-1]):
        found = arrangement_of(samples(), with_images(change), closely=True)
        assert found.wrong is None
        assert not found.by_images


def test_pictures_become_arrays():
    values = np.random.default_rng(3).integers(0, 255, (SIZE, 8, 8, 3), dtype="uint8")
    given = [(Image.fromarray(value), f"{n}.png") for n, value in enumerate(values)]
    names, images = [name for _, name in given], torch.from_numpy(values).permute(0, 3, 1, 2) / 255
    assert arrangement_of(given, (images, names), closely=True) == (None, True)
    assert misplaced(given, (images.flip(0), names), closely=True) == (0, SIZE - 1)
    pictures = [picture for picture, _ in given]
    assert misplaced(given, (pictures[::-1], names)) == (0, SIZE - 1)


def test_rows_are_found_by_the_hosts_own_index():
    given = [(10 * n, label) for n, (_, label, _) in enumerate(samples())]
    assert order_by_index(given, [50, 0, 20]) == ([5, 0, 2], [0, 10, 20, 30, 40, 50])
    twice = [(7, "a"), (3, "b"), (7, "c")]
    assert order_by_index(twice, [7, 7, 3]) == ([0, 2, 1], [7, 3, 7])
    for indexes in ([1, 11, 21], [50, 50]):  # of no field, and of one sample
        assert order_by_index(given, indexes) is None


def test_samples_of_one_name_stand_for_each_other():
    given = samples()
    swapped = default_collate([given[n] for n in (1, 0, 2, 3, 4, 5)])
    assert misplaced(given, swapped) == (0, 1)
    assert misplaced(given, swapped[0], names=[9, 9, 2, 3, 4, 5]) is False


def sentences(views, alike=False):
    lengths = [4, 7, 3, 9, 5, 4]  # none as long as the batch in every view
    return [
        [
            [101, 50 * n + (0 if alike else v), *range(7, 7 + lengths[n] - v), 102]
            for v in range(views)
        ]
        for n in range(SIZE)
    ]


def padded(rows, length, front=False):
    pad = [[0] * (length - len(row)) for row in rows]
    return torch.tensor([p + row if front else row + p for row, p in zip(rows, pad, strict=True)])


def each_column(of, length=12, **kwargs):
    return [padded([views[v] for views in of], length, **kwargs) for v in range(len(of[0]))]


def flattened_and_viewed(of):
    """As SimCSE batches pairs and triplets of sentences."""
    rows = padded([row for views in of for row in views], 12)
    ids = rows.view(len(of), -1, 12)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


PADDED = [
    each_column,
    functools.partial(each_column, front=True),
    lambda of: each_column([[row[:8] for row in views] for views in of], 8),  # cut
    flattened_and_viewed,
    lambda of: flattened_and_viewed(of)["input_ids"].flatten(0, 1),
]


@pytest.mark.parametrize(("views", "alike"), [(1, False), (2, False), (2, True), (3, False)])
@pytest.mark.parametrize("collate", PADDED)
def test_padded_sentences_are_found_again(collate, views, alike):
    given = sentences(views, alike)
    assert misplaced(given, collate(given), closely=True) is False
    by_length = sorted(given, key=lambda sample: -len(sample[0]))
    assert misplaced(given, collate(by_length), closely=True) not in (False, None)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_labels_as_ones_and_zeros_are_no_padded_sentences(classes):
    # Row n of the batch looks as if it were what another sample holds, with padding.
    every = [[0], [1, 0], [0, 1, 1], [1], [0, 0], [1, 0, 1]]
    given = [{"text": f"{n}", "labels": labels} for n, labels in enumerate(every)]
    rows = torch.zeros(SIZE, classes, dtype=torch.int64)
    for row, labels in zip(rows, every, strict=True):
        row[labels] = 1
    assert misplaced(given, {"labels": rows}, closely=True) is None


def test_views_that_are_alike_are_no_repeated_samples():
    images = torch.randn(SIZE, 3, 4, 4)
    given = [[image, image.clone()] for image in images]
    assert misplaced(given, in_one_tensor([(views,) for views in given])) is False
    assert misplaced(given, images.repeat_interleave(4, 0)) == (-1, 0)
