"""Criteria of ``filtered``: groups, pairs and margins against loops, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from choosing import FORMS, Given, batch_of, integers, offers, random_part, similarity, unit
from device import DEVICE
from pools import only

from negplug import ContrastiveLoss, make_sampler
from negplug.contract.dataset import DatasetAccess, ParentSamples
from negplug.samplers.filtered import Filtered

SAMPLES = 23
INDEXES = torch.tensor([3, 17, 0, 9, 22, 5])


@pytest.fixture
def batch():
    return batch_of(6, indexes=INDEXES)


def check_against_loop(batch, part, sampler, false):
    """Compare with a loop over what ``false(anchor row, column)`` takes out."""
    kept = only(sampler.sample(batch))
    removed = 0
    for i, offered in enumerate(offers(part, batch)):
        expected = [(column, weight) for column, weight in offered if not false(i, column)]
        removed += len(offered) - len(expected)
        assert offers(kept, batch)[i] == expected
    assert removed > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [None, 0, 2.5])
def test_groups(batch, form, window):
    part = random_part(batch, form, rows=SAMPLES)
    groups = integers(-1, 3, SAMPLES, seed=2)
    places = torch.linspace(0, 9, SAMPLES, device=DEVICE)
    table = groups if window is None else torch.stack([groups, places], dim=1)

    def false(i, column):
        own = int(INDEXES[i % 6])
        near = window is None or abs(float(places[own] - places[column])) <= window
        return near and groups[own] == groups[column] != -1

    sampler = Filtered(Given(part), by="groups", file=table, window=window)
    if window == 0:
        part.rows.indexes.copy_(INDEXES.repeat(4)[:SAMPLES])  # some rows are anchors' own samples
        false_of_rows = false
        check_against_loop(
            batch, part, sampler, lambda i, c: false_of_rows(i, int(part.rows.indexes[c]))
        )
    else:
        check_against_loop(batch, part, sampler, false)


@pytest.mark.parametrize("form", FORMS)
def test_pairs(batch, form, monkeypatch):
    monkeypatch.setattr("negplug.samplers.filtering.pairs._AT_ONCE", 50)
    part = random_part(batch, form, rows=SAMPLES)
    pairs = integers(0, SAMPLES, 80, 2, seed=4)
    found = {frozenset(pair) for pair in pairs.tolist()}
    sampler = Filtered(Given(part), pairs=pairs)
    check_against_loop(
        batch, part, sampler, lambda i, column: frozenset((int(INDEXES[i % 6]), column)) in found
    )


def test_pairs_beyond_the_listed_and_unknown_samples_stay():
    batch = batch_of(4, indexes=torch.tensor([0, 1, 900, 2]))
    kept = only(Filtered(pairs=torch.tensor([[0, 1], [2, 2]])).sample(batch))
    mask = kept.serving(batch.anchors)
    gone = (~mask).nonzero().tolist()
    expected = [[i, j] for i in range(8) for j in range(8) if i % 4 == j % 4]
    expected += [[i, j] for i in range(8) for j in range(8) if {i % 4, j % 4} == {0, 1}]
    assert sorted(gone) == sorted(expected)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "limits",
    [
        {"absolute_margin": 0.05},
        {"relative_margin": 0.3},
        {"absolute_margin": 0.2, "relative_margin": 0.01, "similarity": 0.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("guided", [False, True])
def test_margins(batch, form, limits, guided):
    part = random_part(batch, form, rows=SAMPLES)
    guide = unit(SAMPLES, seed=11, width=5)
    asked = dict(limits, guide=3 * guide) if guided else limits

    def measured(i, column):
        if guided:
            return float(guide[INDEXES[i % 6]] @ guide[column])
        return similarity(batch, part, i, column)

    def false(i, column):
        z = batch.anchors.embeddings.detach()
        positive = 1.0 if guided else float(z[i] @ z[(i + 6) % 12])
        highest = [limits.get("similarity", 9.0), positive - limits.get("absolute_margin", -9.0)]
        highest.append(positive - limits.get("relative_margin", -9.0) * abs(positive))
        return measured(i, column) > min(highest)

    check_against_loop(batch, part, Filtered(Given(part), **asked), false)


def test_nearest_of_several_positives_counts():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    # Three views of two samples: sample 1 is nearer to some views of sample 0 than others are.
    batch = batch_of(2, views=3)
    keys = torch.cat([z, -z]).double()[[0, 3, 1, 4, 2, 5]].to(DEVICE)
    object.__setattr__(batch.anchors, "embeddings", keys)
    mask = only(Filtered(absolute_margin=0.0).sample(batch)).mask
    for i in range(6):
        nearest = max(float(keys[i] @ keys[j]) for j in range(6) if j != i and j % 2 == i % 2)
        for j in range(6):
            if j % 2 != i % 2:
                assert mask[i, j] == (float(keys[i] @ keys[j]) <= nearest)


def test_of_a_parent_data_set():
    places = torch.tensor([9, 1, 4, 7])
    whole = torch.tensor([0, 5, 1, 2, 6, 3, 3, 5, 8, 6])  # groups: 6, 5, 6, 5 of those
    dataset = DatasetAccess(4, parent=ParentSamples(places, 10))
    batch = batch_of(4, indexes=torch.arange(4)).within(dataset=dataset)
    mask = only(Filtered(by="groups", file=whole, parent=True).sample(batch)).mask
    assert torch.equal(mask, only(Filtered(by="groups", file=whole[places]).sample(batch)).mask)
    assert mask.sum() == 8 * 4  # one other sample of its group each
    with pytest.raises(ValueError, match="10 entries, but the data set has 4 samples; parent=True"):
        Filtered(by="groups", file=whole).sample(batch)


def test_samples_without_an_index():
    z = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for asked in ({"by": "groups", "file": torch.arange(9)}, {"pairs": torch.tensor([[0, 1]])}):
        loss = ContrastiveLoss(Filtered(**asked))
        with pytest.raises(ValueError, match="a table of metadata needs the data set index"):
            loss(*z.clone().requires_grad_())
        with torch.no_grad():  # an evaluation, of other data
            torch.testing.assert_close(loss(*z), ContrastiveLoss("in_batch()")(*z))


@pytest.mark.parametrize(
    ("content", "asked", "error", "message"),
    [
        ([[1.5, 0], [2, 0]], 'by="groups", file={}, window=1', TypeError, "must hold integers in"),
        ([[1, 0], [2, 0]], 'by="groups", file={}', ValueError, r"must hold groups, \[n\], got"),
        ([1, 2], 'by="groups", file={}, window=1', ValueError, r"groups and places, \[n, 2\], for"),
        ([[1, np.nan]], 'by="groups", file={}, window=1', ValueError, "must hold finite numbers"),
        ([1, -2], 'by="groups", file={}', ValueError, "must hold groups from 0 upwards, or -1"),
        ([1.0, 2.0], 'by="groups", file={}', TypeError, "must hold integers, got torch.float64"),
        ([[1, 2]], 'by="groups", file={}, window=-1', ValueError, "window must be in"),
        ([1, 2], "pairs={}", ValueError, r"must hold pairs, \[p, 2\], got \(2,\)"),
        ([[1, -2]], "pairs={}", ValueError, "must hold data set indexes from 0 .* got -2"),
        ([[0.5, 2]], "pairs={}", TypeError, "must hold integers"),
        ([[1, 2]], "similarity=0.5, guide={}", TypeError, "must hold floating-point embeddings"),
        ([[np.inf, 2]], "similarity=0.5, guide={}", ValueError, "must hold finite embeddings"),
        ([0.5], "similarity=0.5, guide={}", ValueError, r"must hold embeddings, \[n, d\]"),
        (["a"], "pairs={}", TypeError, "must hold integers, got <U1"),
        ([1], 'by="labels", file={}', ValueError, 'by="groups" and file=… go together'),
        ([1], 'by="groups"', ValueError, 'by="groups" and file=… go together'),
        ([1], 'by="labels", window=1', ValueError, "window=1 is said of by="),
        ([[1.0]], 'by="labels", guide={}', ValueError, "needs a limit of its similarities"),
        ([1], 'by="labels", parent=True', ValueError, "parent=True is said of file=… or guide=…"),
        ([1], "absolute_margin=2", ValueError, "absolute_margin must be in"),
        ([1], "relative_margin=-0.1", ValueError, "relative_margin must be in"),
        ([1], 'relative_margin="5 %"', TypeError, "relative_margin must be a number"),
        ([1], "pairs=3", TypeError, "pairs must be the path of a .npy file or a tensor"),
        ([1], 'pairs="no.csv"', ValueError, "must be the path of a .npy file; other metadata"),
    ],
)
def test_refused(tmp_path, content, asked, error, message):
    path = str(tmp_path / "table.npy")
    np.save(path, np.array(content))
    with pytest.raises(error, match=message):
        make_sampler(f"filtered({asked.format(repr(path))})")


def test_what_it_is_made_of():
    made = [
        Filtered(by="groups", file=torch.tensor([0, 1])),
        Filtered(by="groups", file=torch.tensor([1, 1])),
        Filtered(by="groups", file=torch.tensor([[1.0, 1.0]]), window=1),
        Filtered(by="groups", file=torch.tensor([[1.0, 2.0]]), window=1),
        Filtered(by="groups", file=torch.tensor([[1.0, 2.0]]), window=2),
        Filtered(pairs=torch.tensor([[0, 1]])),
        Filtered(pairs=torch.tensor([[0, 2]])),
        Filtered(absolute_margin=0.1),
        Filtered(relative_margin=0.1),
        Filtered(relative_margin=0.1, guide=torch.eye(2)),
        Filtered(relative_margin=0.1, guide=torch.eye(3)),
    ]
    assert len({str(sampler) for sampler in made}) == len(made)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int64, torch.float32])
def test_places_of_any_kind_of_number(kind):
    table = torch.tensor([[0, 3], [0, 5], [0, 120], [0, 0]], dtype=kind)
    batch = batch_of(4, indexes=torch.arange(4))
    mask = only(Filtered(by="groups", file=table, window=10).sample(batch)).mask[:4, :4]
    assert mask.nonzero().tolist() == [[0, 2], [1, 2], [2, 0], [2, 1], [2, 3], [3, 2]]


def test_an_anchor_without_a_known_positive_keeps_to_the_other_limits():
    batch = batch_of(3, indexes=torch.arange(3))
    guide = torch.eye(3)[[0, 0, 1]]
    limits = {"similarity": 0.5, "relative_margin": 0.1}
    object.__setattr__(batch, "positives", torch.full_like(batch.positives, -1))
    mask = only(Filtered(guide=guide, **limits).sample(batch)).mask
    assert not mask[0, 1]  # as similar as can be
    assert mask[0, 2]


def test_a_large_guide_is_told_apart_soon():
    guide = torch.nn.functional.normalize(torch.rand(20_000, 64) + 0.1)
    other = guide.clone()
    other[-1, -1] += 0.5
    tables = [Filtered(similarity=0.5, guide=each) for each in (guide, guide.clone(), other)]
    assert str(tables[0]) == str(tables[1]) != str(tables[2])
