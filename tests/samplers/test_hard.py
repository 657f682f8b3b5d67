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

from negplug import (
    ContrastiveLoss,
    Negatives,
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
    columns, mask = hardest(batch, replace(part, log_weight=None), count)
    assert torch.equal(columns, chosen.columns)
    assert (mask is None) == (chosen.mask is None)
    assert not columns.requires_grad


@pytest.mark.usefixtures("small_tiles")
def test_hardest_masks_what_an_anchor_lacks_and_takes_an_empty_pool():
    batch = batch_of(2)
    part = Negatives(pool=unit(6), pool_ids=batch.anchor_ids[[0, 0, 0, 0, 1, 1]])
    columns, mask = hardest(batch, part, 4)
    assert columns.shape == (4, 4)
    assert mask.sum(1).tolist() == [2, 4, 2, 4]
    assert set(columns[0][mask[0]].tolist()) == {4, 5}
    everything, _ = hardest(batch, part, 100)
    assert everything.shape == (4, 6)
    empty = Negatives(pool=unit(6)[:0], pool_ids=part.pool_ids[:0])
    assert hardest(batch, empty, 4)[0].shape == (4, 0)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_hard_loss_and_gradient_equal_a_loop(views, count):
    z = naive.embeddings(views, 7)
    rows = torch.cat(z).detach()
    rows = rows / rows.norm(dim=1, keepdim=True)
    number = torch.arange(len(rows))
    scores = (rows @ rows.T).masked_fill(number[:, None] % 7 == number % 7, -2)
    reference = naive.simclr(z, 0.3, scores.argsort(1, descending=True)[:, :count])
    ours = ContrastiveLoss(f"hard(num_negatives={count})", temperature=0.3)(*z)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_hard_over_several_pools_is_the_hardest_of_all():
    batch = batch_of(6)
    first = random_part(batch, "whole")
    # The same rows in another order, so that every column of the union can be told apart.
    second = replace(random_part(batch, "chosen-masked"), pool=unit(23, seed=21))
    empty = Negatives(pool=unit(1)[:0], pool_ids=batch.anchor_ids[:0])
    union = replace(first, others=(second, empty))
    chosen = Hard(4, Given(union)).sample(batch)
    assert torch.equal(chosen.pool, torch.cat([first.pool, second.pool]))
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
    inner, drawn = outer.source.sample(batch).columns, outer.sample(batch).columns
    for i in range(16):
        assert len(set(drawn[i].tolist())) == 3
        assert set(drawn[i].tolist()) <= set(inner[i].tolist())
