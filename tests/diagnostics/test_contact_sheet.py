"""Contact sheets: what is read off a call, whose rows those are, and their pictures."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from negplug import ContrastiveLoss
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.negatives import Columns, Mixtures, Negatives
from negplug.contract.rows import Rows
from negplug.diagnostics.contact_sheet.draws import draws_of
from negplug.diagnostics.contact_sheet.images import Images, as_picture, views_in
from negplug.diagnostics.contact_sheet.sheet import sheet_of
from negplug.diagnostics.contact_sheet.whose import Row
from negplug.samplers.in_batch import InBatch

LABELS = torch.tensor([0, 1, 0, 2])


def unit(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator))


def views():
    z = unit(8)
    return z[:4], z[4:]


def batch(**known):
    return ContrastiveBatch.from_views(views(), labels=LABELS, **known).within(temperature=0.5)


def test_all_keys_of_the_batch_with_similarities_shares_and_labels():
    z, given = unit(8), batch()
    (first, second) = draws_of(given, [given.all_keys()], size=4, anchors=2, most=8)
    assert [first.anchor, second.anchor] == [Row(0, 0, None, 0), Row(1, 0, None, 1)]
    assert first.positive.rows == (Row(0, 1, None, 0),)
    assert first.positive.similarity == pytest.approx(float(z[0] @ z[4]), abs=1e-6)
    others = [row for row in range(8) if row % 4]
    order = sorted(others, key=lambda row: -float(z[0] @ z[row]))
    assert [(d.rows[0].view, d.rows[0].place) for d in first.negatives] == [
        divmod(row, 4) for row in order
    ]
    weights = (z[0] @ z[order].T / 0.5).softmax(0)
    assert [d.share for d in first.negatives] == pytest.approx(weights.tolist(), abs=1e-6)
    # The samples 0 and 2 have the label 0.
    assert (first.total, first.labelled, first.false) == (6, 6, 2)
    false = sum(w for w, row in zip(weights.tolist(), order, strict=True) if row % 4 == 2)
    assert first.false_share == pytest.approx(false, abs=1e-6)
    assert second.false == 0


@pytest.mark.parametrize(("half", "view"), [("cross", 1), ("same", 0)])
def test_of_blocks_of_views_those_that_serve_alone(half, view):
    given = batch()
    (first,) = draws_of(given, InBatch(half)(given), size=4, anchors=1)
    assert first.anchor.view == 0
    assert first.total == 3
    assert [drawn.rows[0].view for drawn in first.negatives] == [view] * 3


def test_the_most_similar_are_listed_and_all_are_counted():
    given = batch()
    full, short = (draws_of(given, [given.all_keys()], 4, 1, most)[0] for most in (6, 2))
    assert short.negatives == full.negatives[:2]
    assert (short.total, short.false, short.false_share) == (6, 2, full.false_share)


def test_repeats_are_one_negative_and_masked_draws_are_none():
    given = batch()
    columns = torch.tensor([[1, 1, 2, 5]]).expand(8, -1)
    mask = torch.tensor([[True, True, True, False]]).expand(8, -1)
    part = Negatives(given.keys, Columns(columns, mask))
    (one,) = draws_of(given, [part], 4, anchors=1)
    assert {d.rows[0].place: d.times for d in one.negatives} == {1: 2, 2: 1}
    assert one.total == 3
    assert sum(d.share for d in one.negatives) == pytest.approx(1)


def test_draws_from_the_softmax_have_their_weights_for_shares():
    given = batch()
    weight = torch.tensor([[0.75, 0.25, 0.0]]).expand(8, -1).log()
    columns = torch.tensor([[1, 3, 2]]).expand(8, -1)
    part = Negatives(given.keys, Columns(columns), weight, "posterior")
    (one,) = draws_of(given, [part], 4, anchors=1)
    assert {d.rows[0].place: round(d.share, 6) for d in one.negatives} == {1: 0.75, 3: 0.25}


def test_a_mixture_is_of_two_samples():
    z, given = unit(8), batch()
    first, second = torch.full((8, 1), 1), torch.full((8, 1), 6)
    coefficients = torch.tensor([0.6, 0.8]).expand(8, 1, 2)
    part = Negatives(given.keys, Mixtures(first, second, coefficients))
    draws = draws_of(given, [part], 4, anchors=1)
    (mixed,) = draws[0].negatives
    assert mixed.rows == (Row(1, 0, None, 1), Row(2, 1, None, 0))
    assert mixed.similarity == pytest.approx(float(z[0] @ (0.6 * z[1] + 0.8 * z[6])), abs=1e-6)
    image = torch.zeros(4, 3, 4, 4)
    image[1] = 1.0
    (strip,) = sheet_of("a call", draws, Images([image, image])).strips
    assert strip.negatives[0].same_label is False
    assert strip.negatives[0].picture[0, :, 0].tolist() == [255, 255, 0, 0]


@pytest.mark.parametrize("title", ["a call of 'a$b$'", "x" * 500])
def test_a_figure_has_the_size_of_its_anchors_whatever_the_title(title):
    pytest.importorskip("matplotlib")
    from negplug.diagnostics.contact_sheet.sheet import figure, pixels

    given = batch()
    draws = draws_of(given, [given.all_keys()], 4, anchors=2, most=3)
    image = torch.zeros(4, 3, 4, 4)
    picture = pixels(figure(sheet_of(title, draws, Images([image, image]))))
    assert picture.shape == (int(130 * (0.75 + 2 * 1.25)), int(130 * 5.8), 3)
    assert picture.min() == 0
    assert (picture[:, -5:] == 255).all()  # the title ends before the edge


def test_rows_of_a_memory_are_known_by_their_index_alone():
    known = batch(indexes=torch.tensor([10, 11, 12, 13]))
    # An earlier embedding of sample 11, which is in the batch too, and a row of nobody.
    memory = Rows(
        unit(2, seed=1),
        torch.tensor([11, -1]),
        torch.tensor([11, -1]),
        torch.tensor([1, -1]),
    )
    (one,) = draws_of(known, [Negatives(memory)], 4, anchors=1)
    assert one.anchor == Row(0, 0, 10, 0)
    assert {d.rows[0] for d in one.negatives} == {Row(None, None, 11, 1), Row()}
    assert (one.total, one.labelled) == (2, 1)


def test_parts_of_images_are_no_samples_of_the_batch():
    # Two samples of four parts each, sample after sample, as dense losses have them.
    given = batch()
    (one,) = draws_of(given, [given.all_keys()], size=2, anchors=1)
    assert one.anchor == Row(None, None, None, 0)


def test_the_loss_tells_its_witness_of_the_call_itself():
    told = []
    plain, watched = (ContrastiveLoss("uniform(num_negatives=3)", seed=5) for _ in range(2))
    watched.witness = lambda batch, negatives: told.append((batch, negatives))
    for step in range(2):
        expected, loss = (
            each(views()[0].requires_grad_(), views()[1]) for each in (plain, watched)
        )
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)
        assert len(told) == step + 1
        expected.backward()
        loss.backward()
    assert told[0][0].anchors.embeddings.shape == (8, 8)
    assert told[0][1][0].width == 3


class Samples:
    """Draws from every global generator of the CPU; its last sample is another's."""

    def __getitem__(self, index):
        if index == 9:
            raise OSError("the disk is gone")
        shift = torch.rand(()) + random.random() + np.random.rand()
        return index % 8, [torch.full((3, 4, 4), float(index)) + shift * 0]


def test_the_data_set_is_asked_without_a_trace_in_the_generators():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(()), random.random(), np.random.rand()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    assert Images([], Samples()).of(Row(index=3)) is not None
    assert expected == (torch.rand(()), random.random(), np.random.rand())


def test_why_a_data_set_gave_no_picture():
    images = Images([], Samples(), numbered=True)
    assert images.of(Row(index=3)) is not None
    assert images.of(Row(index=8)) is None
    assert "sample 8 of the training data set has another index" in images.reason
    assert images.of(Row(index=9)) is None
    assert "no sample 9: OSError: the disk is gone" in images.reason
    images = Images([], [0.5, 1.5])
    assert images.of(Row(index=1)) is None
    assert images.reason == "samples of the data set hold no image"
    assert images.of(Row()) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: ([a, b], LABELS, ["a"] * 4),
        lambda a, b: (torch.arange(4), [a, b], LABELS),
        lambda a, b: {"image": torch.stack([a, b], 1), "label": LABELS},
        lambda a, b: (a, {"other": b}, torch.zeros(3, 3, 4, 4)),
    ],
    ids=["lightly", "solo", "stacked", "nested"],
)
def test_views_are_found_in_any_batch(make):
    one, two = torch.zeros(4, 3, 4, 4), torch.ones(4, 3, 4, 4)
    found = views_in(make(one, two))
    assert [float(view.mean()) for view in found] == [0.0, 1.0]
    images = Images(make(one, two))
    assert images.size == 4
    assert images.of(Row(2, 1)).max() == 255
    assert images.of(Row(2)).max() == 0  # the view is unknown


@pytest.mark.parametrize(
    ("image", "low", "high"),
    [
        (torch.linspace(0.2, 0.6, 16).reshape(1, 4, 4), 51, 153),  # as it is
        (torch.linspace(-2, 2, 48).reshape(3, 4, 4), 0, 255),  # normalised
        (torch.full((12, 4, 4), 3.0), 0, 0),  # constant, many channels
        (torch.full((3, 4, 4), math.nan), 0, 0),
        (torch.full((3, 4, 4), 200, dtype=torch.uint8), 200, 200),
    ],
)
def test_any_image_can_be_looked_at(image, low, high):
    picture = as_picture(image)
    assert picture.shape == (4, 4, 3)
    assert picture.dtype == np.uint8
    assert (picture.min(), picture.max()) == (low, high)
