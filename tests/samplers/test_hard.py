"""``hard``: the most similar of what a source offers, against loops."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from choosing import (
    FORMS,
    Given,
    batch_of,
    numbered,
    offers,
    random_part,
    similarity,
    unit,
    with_unknown_anchor,
)
from device import DEVICE

from negplug import (
    ContrastiveLoss,
    Negatives,
    Rows,
    make_sampler,
)
from negplug.samplers.hard import Hard, hardest


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3, 6])
def test_hard_takes_the_most_similar_of_every_form_of_source(form, count):
    batch = with_unknown_anchor(batch_of(6))
    part = random_part(batch, form)
    chosen = Hard(count, Given(part)).sample(batch)
    for i, (ours, offered) in enumerate(
        zip(offers(chosen, batch), offers(part, batch), strict=True)
    ):
        by_similarity = sorted(offered, key=lambda entry: -similarity(batch, part, i, entry[0]))
        assert ours == by_similarity[:count]
    found = hardest(batch, (replace(part, log_weight=None),), count)
    assert torch.equal(found.choice.columns, chosen.choice.columns)
    assert (found.mask is None) == (chosen.mask is None)
    assert not found.choice.columns.requires_grad


@pytest.mark.usefixtures("small_tiles")
def test_hardest_masks_what_an_anchor_lacks_and_takes_an_empty_pool():
    batch = batch_of(2)
    part = Negatives(Rows(unit(6), batch.anchors.ids[[0, 0, 0, 0, 1, 1]]))
    found = hardest(batch, (part,), 4)
    columns, mask = found.choice.columns, found.mask
    assert columns.shape == (4, 4)
    assert mask.sum(1).tolist() == [2, 4, 2, 4]
    assert set(columns[0][mask[0]].tolist()) == {4, 5}
    assert hardest(batch, (part,), 100).choice.columns.shape == (4, 6)
    empty = Negatives(Rows(unit(6)[:0], part.rows.ids[:0]))
    for pools in ((empty, part), (part, empty)):
        assert torch.equal(hardest(batch, pools, 4).choice.columns, columns)
    with pytest.warns(UserWarning, match="0 negatives instead of num_negatives=4"):
        assert Hard(4, Given(empty)).sample(batch.detach()) == (empty,)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_hard_loss_and_gradient_equal_a_loop(views, count):
    z = naive.embeddings(views, 7)
    rows = torch.cat(z).detach()
    rows = rows / rows.norm(dim=1, keepdim=True)
    number = torch.arange(len(rows), device=DEVICE)
    scores = (rows @ rows.T).masked_fill(number[:, None] % 7 == number % 7, -2)
    reference = naive.simclr(z, 0.3, scores.argsort(1, descending=True)[:, :count])
    ours = ContrastiveLoss(f"hard(num_negatives={count})", temperature=0.3)(*z)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_hard_over_several_pools_is_the_hardest_of_all():
    batch = batch_of(6)
    first = random_part(batch, "whole")
    # The same rows in another order, so that every column of the union can be told apart.
    second = random_part(batch, "chosen-masked")
    second = replace(second, rows=second.rows.with_embeddings(unit(23, seed=21)))
    empty = Negatives(Rows(unit(1)[:0], batch.anchors.ids[:0]))
    chosen = Hard(4, Given(first, second, empty)).sample(batch)
    both = torch.cat([first.rows.embeddings, second.rows.embeddings])
    assert torch.equal(chosen.rows.embeddings, both)
    for i, ours in enumerate(offers(chosen, batch)):
        both = [(similarity(batch, first, i, c), c, w) for c, w in offers(first, batch)[i]]
        both += [(similarity(batch, second, i, c), c + 23, w) for c, w in offers(second, batch)[i]]
        assert ours == [(c, w) for _, c, w in sorted(both, reverse=True)[:4]]


def test_hard_asks_for_no_more_than_there_is():
    z = naive.embeddings(2, 8)
    with pytest.raises(ValueError, match=r"hard: num_negatives=15 is more than the 14 negatives"):
        ContrastiveLoss("hard(num_negatives=15)")(*z)
    with pytest.raises(ValueError, match=r"more than the 3 rows that uniform\(num_negatives=3\)"):
        make_sampler("hard(num_negatives=4, source=uniform(num_negatives=3))")
    with pytest.raises(ValueError, match=r"more than the 32 rows that filtered\(queue"):
        make_sampler("hard(num_negatives=40, source=filtered(queue(size=32), similarity=0.5))")
    loss_fn = ContrastiveLoss("hard(num_negatives=10)", temperature=0.2)
    loss_fn(*z)
    ragged = naive.embeddings(2, 3)
    with pytest.warns(UserWarning, match="hard: a ragged batch offers 4 negatives"):
        ours = loss_fn(*ragged)
    assert torch.equal(ours, ContrastiveLoss("in_batch()", temperature=0.2)(*ragged))


@pytest.mark.parametrize("name", ["hard", "stratified"])
def test_a_size_that_the_host_gives_is_held_against_m(name):
    sampler = make_sampler(f"{name}(num_negatives=40, source=queue())")
    sampler.source.size = 32
    with pytest.raises(ValueError, match=f"{name}: num_negatives=40 is more than the 32 rows"):
        sampler.fit_host(None)


def test_uniform_over_hard_draws_among_the_hardest():
    batch = batch_of(8)
    outer = numbered(make_sampler("uniform(num_negatives=3, source=hard(num_negatives=6))"))
    inner, drawn = outer.source.sample(batch).choice.columns, outer.sample(batch).choice.columns
    for i in range(16):
        assert len(set(drawn[i].tolist())) == 3
        assert set(drawn[i].tolist()) <= set(inner[i].tolist())
