"""What ``emc2()`` and ``isir()`` refuse, and what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import ranks
import torch
from torch.nn.functional import normalize

from negplug import ContrastiveBatch, ContrastiveLoss, make_sampler
from negplug.contract.dataset import DatasetAccess
from negplug.contract.rows import Rows
from negplug.testing.subject import difference

BATCH = 4
WIDTH = 6


def rows(size=BATCH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, size, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()


def one_step(loss_fn, indexes, size=None, encode=None, seed=0):
    views = tuple(rows(len(indexes), seed))
    batch = ContrastiveBatch.from_views(views, torch.tensor(indexes))
    loss_fn.contrast(batch.within(dataset=DatasetAccess(size, encode))).backward()
    loss_fn.end_step()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            "emc2(burn_in=1.0)",
            r"burn_in must be a share in \[0, 1\) or an integer .* got 1.0; noth",
        ),
        (
            "emc2(burn_in=-1)",
            r"burn_in must be a share in \[0, 1\) or an integer from 0 on, got -1",
        ),
        ("emc2(burn_in=True)", "burn_in must be a share or a number of proposals, got True"),
        ("emc2(burn_in='half')", "burn_in must be a share or a number of proposals, got 'half'"),
        ("emc2(burn_in_stop=-1)", "burn_in_stop must be at least 0, got -1"),
        ("emc2(out_of_batch='keep')", r"out_of_batch must be one of .*'recompute'.*, got 'keep'"),
        ("isir(out_of_batch=3)", r"out_of_batch must be one of .*'drop'.*, got 3"),
        ("isir(size=0)", "isir: size must be at least 1, got 0"),
        ("isir(source=3)", "isir: source must be a sampler, got 3"),
        ("emc2(source=uniform(num_negatives=3))", r"all rows of one pool, .*; uniform\(num_negat"),
        ("isir(source=queue(size=9, num_negatives=3))", "all rows of one pool"),
        ("emc2(source=isir())", r"all rows of one pool, .*; isir\(\) chooses among them"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(expression, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_sampler(expression)


@pytest.mark.parametrize(
    "source",
    ["gumbel_max()", "hierarchical(in_batch(), queue(size=9))", "filtered(similarity=0.5)"],
)
def test_a_source_that_is_no_whole_pool_is_refused(source):
    with pytest.raises(ValueError, match=r"isir: proposes whole samples, .* chooses among them"):
        one_step(ContrastiveLoss(f"isir(source={source})"), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("expression", "indexes", "size", "message"),
    [
        (
            "emc2(size=8)",
            [0, 9],
            None,
            "emc2: the data set index 9 is beyond size=8 of the data set; indexes",
        ),
        ("emc2()", [0, 9], 8, "emc2: the data set index 9 is beyond size=8"),
        ("isir(size=8)", [0, 1], 14, "isir: size=8, but the data set has 14 samples; give that"),
        ("emc2(burn_in=3)", [0, 1, 2, 3], None, "burn_in=3 leaves no draw of the 3 samples that a"),
        ("isir(out_of_batch='recompute')", [0, 1], None, r"isir: .* but encode= was not given .*"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(expression, indexes, size, message):
    with pytest.raises(ValueError, match=message):
        one_step(ContrastiveLoss(expression), indexes, size)


@pytest.mark.parametrize("expression", ["emc2(size=14)", "isir(size=14)"])
def test_a_data_set_that_shows_others_each_time_is_given_its_size(expression):
    loss_fn = ContrastiveLoss(expression)
    for seed, indexes in enumerate(([0, 1, 2], [9, 2, 13])):
        one_step(loss_fn, indexes, 8, seed=seed)
    with pytest.raises(ValueError, match=r"index 14 is beyond size=14 .* number of all as size="):
        one_step(loss_fn, [14, 1], 8)


@pytest.mark.parametrize("expression", ["emc2()", "isir()"])
def test_samples_without_an_index_are_refused(expression):
    with pytest.raises(ValueError, match=r"needs the data .* was called without indexes="):
        ContrastiveLoss(expression)(*rows())
    batch = ContrastiveBatch.from_views(tuple(rows()), unindexed="the loader is exhausted")
    with pytest.raises(ValueError, match="of every sample, but the loader is exhausted"):
        ContrastiveLoss(expression).contrast(batch)
    unknown = ContrastiveBatch.from_ids(
        normalize(rows()[0]), torch.arange(4), indexes=torch.tensor([0, 1, 2, -1])
    )
    with pytest.raises(ValueError, match="of every sample, but one is -1"):
        ContrastiveLoss(expression).contrast(unknown)


def test_a_pool_of_nobodys_rows_is_refused():
    batch = ContrastiveBatch.from_pairs(*rows(), torch.arange(4))
    batch = replace(batch, host_queue=Rows.unknown(normalize(rows()[0].detach())))
    with pytest.raises(
        ValueError, match=r"it is unknown which samples the rows of in_batch\(\) are"
    ):
        ContrastiveLoss("emc2(source=in_batch())").contrast(batch)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (
            lambda i: (torch.randn(len(i) + 1, WIDTH),),
            r"a tuple of views \[1, 6\] for 1 indexes, got",
        ),
        (lambda i: (torch.randn(len(i), 5),), r"views \[1, 6\] for 1 indexes, got \[\[1, 5\]\]"),
        (lambda i: (), r"got \[\]"),
        (lambda i: torch.randn(len(i), WIDTH), r"view 0 of encode must have shape \[B, d\]"),
        (lambda i: (torch.full((len(i), WIDTH), torch.nan),), "view 0 of encode holds NaN"),
        (lambda i: ([1.0] * WIDTH,), "view 0 of encode must be a tensor"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_in_the_first_step(encode, message):
    with pytest.raises((ValueError, TypeError), match=message):
        one_step(ContrastiveLoss("emc2(out_of_batch='recompute')"), [0, 1, 2], encode=encode)


@pytest.mark.parametrize("expression", ["emc2()", "isir()"])
def test_a_data_set_that_changed_size_is_refused(expression):
    before, after = ContrastiveLoss(expression), ContrastiveLoss(expression)
    one_step(before, [0, 1, 2], size=14)
    after.load_state_dict(before.state_dict())
    one_step(after, [3, 4], size=14)
    with pytest.raises(ValueError, match="is of a data set of 14 samples, but the data set has 20"):
        one_step(after, [3, 4], size=20)


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        ("emc2()", "emc2(burn_in=2)", "was saved with burn_in=0.5, this run has burn_in=2"),
        ("emc2()", "emc2(out_of_batch='drop')", "saved with out_of_batch='cached', this run has"),
        ("emc2(size=14)", "emc2(size=20)", "was saved with size=14, this run has size=20"),
        ("isir()", "emc2()", "the saved state is another sampler's"),
    ],
)
def test_chains_of_other_settings_are_refused(saved, loaded, message):
    before, after = ContrastiveLoss(saved), ContrastiveLoss(loaded)
    one_step(before, [0, 1, 2])
    with pytest.raises(ValueError, match=message):
        after.load_state_dict(before.state_dict())


BAD = [([4, 9], "beyond size=8"), ([4, -1], "needs the data set"), (None, "needs the data set")]
"""Indexes of the last rank, and what every rank says."""


def on_a_rank(rank, world):
    """For each bad step between two good ones: the error, and the state at the end."""
    found = []
    for bad, _ in BAD:
        for expression in ("emc2(size=8)", "isir(size=8, source=in_batch())"):
            loss_fn, message = ContrastiveLoss(expression), "no error"
            good = [2 * rank, 2 * rank + 1]
            for step, indexes in enumerate([good, bad if rank else good, good]):
                if indexes is not None:
                    indexes = torch.tensor(indexes).repeat(2)
                anchors = normalize(rows(2, 10 * rank + step).flatten(0, 1))
                ids = torch.arange(2).repeat(2)
                try:
                    loss = loss_fn.contrast(
                        ContrastiveBatch.from_ids(anchors, ids, indexes=indexes)
                    )
                    loss.backward()
                except ValueError as error:
                    message = str(error)
            loss_fn.end_step()
            found.append((message, loss_fn.state_dict()))
    return found


def test_an_index_that_is_bad_on_one_rank_is_refused_on_all():
    first, second = ranks.run(on_a_rank, 2, timeout=60)
    expected = [message for _, message in BAD for _ in range(2)]
    for message, one, other in zip(expected, first, second, strict=True):
        assert message in one[0]
        assert message in other[0]
        assert difference(one[1], other[1]) is None
        state = one[1]["sampler.chains._extra_state"]["values"]["state"]
        assert state.shape == (2, 8)
