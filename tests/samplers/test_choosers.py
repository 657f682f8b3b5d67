"""``hard``, ``filtered`` and ``stratified`` alike: what they refuse, ranks, recipes."""

from __future__ import annotations

import warnings
from dataclasses import replace

import hosts
import naive
import numpy as np
import pytest
import ranks
import torch
from choosing import Given, batch_of, random_part, unit
from device import DEVICE

from negplug import (
    ContrastiveBatch,
    ContrastiveLoss,
    Draws,
    Mixtures,
    Negatives,
    Rows,
    make_sampler,
)
from negplug.contract.negatives import total_counts
from negplug.samplers.filtered import Filtered
from negplug.samplers.hard import Hard
from negplug.samplers.stratified import Stratified


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("hard(num_negatives=0)", ValueError, "hard: num_negatives must be at least 1, got 0"),
        ("hard(num_negatives=2.5)", TypeError, "hard: num_negatives must be an integer"),
        ("hard(num_negatives=2, source=3)", TypeError, "hard: source must be a sampler, got 3"),
        ("filtered()", ValueError, "filtered: give by"),
        ("filtered(in_batch())", ValueError, "filtered: give by"),
        ("filtered(3, similarity=0.5)", TypeError, "filtered: source must be a sampler, got 3"),
        (
            "filtered(by='classes.csv')",
            ValueError,
            'filtered: by must be "labels", "groups" with file=… .the path of a .npy file.',
        ),
        ("filtered(by='groups.npy')", ValueError, "filtered: by must be .*, got 'groups.npy'"),
        ("filtered(similarity=-1)", ValueError, r"filtered: similarity must be in \(-1, 1\], got"),
        ("filtered(similarity=1.5)", ValueError, r"filtered: similarity must be in \(-1, 1\]"),
        ("filtered(similarity=True)", TypeError, "filtered: similarity must be a number, got T"),
        ("stratified(num_negatives=0)", ValueError, "stratified: num_negatives must be at leas"),
        ("stratified(4, same=1.01)", ValueError, r"stratified: same must be in \[0, 1\], got 1.01"),
        ("stratified(4, same='half')", TypeError, "stratified: same must be a number"),
        ("stratified(4, by=3)", TypeError, 'stratified: by must be "labels", the path of a .npy'),
        (
            "stratified(4, by='a/classes')",
            ValueError,
            "or the name of a column of the data set, got",
        ),
        ("stratified(4, by='no.npy')", ValueError, "stratified: by='no.npy' names no file"),
        ("stratified(4, correction=1)", TypeError, "stratified: correction must be True or False"),
        ("stratified(4, same=0, correction=True)", ValueError, "same=0 of num_negatives=4 is 0 of"),
        ("stratified(1, correction=True)", ValueError, "is 0 of the own stratum and 1 of others"),
    ],
)
def test_bad_arguments(expression, error, message):
    with pytest.raises(error, match=message):
        make_sampler(expression)


def test_missing_metadata_is_named():
    z = naive.embeddings(2, 4)
    for expression in ("filtered(by='labels')", "stratified(num_negatives=2)"):
        with pytest.raises(ValueError, match=r'by="labels" needs the label of every sample, but'):
            ContrastiveLoss(expression)(*z)
    sampler = Stratified(2, by=torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=r"but the loss was called without indexes="):
        sampler.sample(batch_of(4))
    with pytest.raises(ValueError, match=r"every sample, but the loader is lazy"):
        sampler.sample(batch_of(4, unindexed="the loader is lazy"))
    with pytest.raises(ValueError, match=r"3 entries, but there is a sample with data set index 3"):
        sampler.sample(batch_of(4, indexes=torch.arange(4, device=DEVICE)))
    batch = batch_of(4, labels=[0, 0, 1, 1], indexes=torch.tensor([0, 0, 1, 2]))
    bare = Given(Negatives(Rows.unknown(unit(6))))
    with pytest.raises(ValueError, match="needs labels of the negatives too"):
        Filtered(bare, by="labels").sample(batch)
    with pytest.raises(ValueError, match="needs the data set index of the negatives too"):
        Stratified(2, by=torch.tensor([0, 0, 1]), source=bare).sample(batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: Hard(2, s),
        lambda s: Filtered(s, similarity=0.5),
        lambda s: Stratified(2, source=s),
    ],
)
def test_what_cannot_be_chosen_among_is_refused(make):
    batch = batch_of(4, labels=[0, 0, 1, 1])
    part = random_part(batch, "chosen")
    with pytest.raises(ValueError, match="already draws from the softmax"):
        make(Given(replace(part, estimator="posterior"))).sample(batch)
    columns = part.choice.columns
    mixed = replace(part, choice=Mixtures(columns, columns, torch.ones(8, 11, 2).double()))
    with pytest.raises(ValueError, match="are mixtures, no rows of a pool to choose among"):
        make(Given(mixed)).sample(batch)


def _over_ranks(rank: int, world: int) -> list[list[int]]:
    z = [view[4 * rank : 4 * rank + 4] for view in naive.embeddings(2, 8)]
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 5, 5])[4 * rank : 4 * rank + 4]
    batch = ContrastiveBatch.from_views(tuple(z), labels=labels)
    batch = batch.within(draws=Draws(rank=rank))
    kept = make_sampler("filtered(gather(), by='labels')")(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = make_sampler("stratified(2, same=1.0, source=gather())")(batch)
    return [total_counts(pools, batch.anchors).tolist() for pools in (kept, drawn)]


def test_labels_are_those_of_every_rank():
    first, second = ranks.run(_over_ranks, 2)
    assert first == [[12, 12, 14, 14] * 2, [2, 2, 0, 0] * 2]
    assert second == [[12, 12, 12, 12] * 2, [2, 2, 2, 2] * 2]


@pytest.mark.parametrize("kind", ["filtered", "stratified"])
def test_a_recipe_hands_over_its_metadata(kind, tmp_path):
    # Batches of 8 hold each of 4 classes twice: of 14 negatives two are of the anchor's class.
    path = tmp_path / "classes.npy"
    np.save(path, np.arange(24) % 4)
    expression = {
        "filtered": "filtered(by='labels')",
        "stratified": f"stratified(num_negatives=8, same=0.25, by={str(path)!r})",
    }[kind]
    trainer = hosts.trainer(
        callbacks=[hosts.negative_control()(expression)], max_epochs=1, log_every_n_steps=1
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="stratified")
        trainer.fit(hosts.recipe(), hosts.loader())
    counted = trainer.callback_metrics[f"negplug/{hosts.site_name()}/num_negatives"]
    assert float(counted) == {"filtered": 12.0, "stratified": 8.0}[kind]
