"""``hard(skip=r)``: the r nearest are passed over, against loops."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from choosing import FORMS, Given, batch_of, offers, random_part, similarity, with_unknown_anchor
from device import DEVICE

from negplug import ContrastiveLoss, make_sampler
from negplug.samplers.hard import Hard


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("count", "skip"), [(1, 1), (3, 2), (2, 5)])
def test_the_nearest_are_passed_over_of_every_form_of_source(form, count, skip):
    batch = with_unknown_anchor(batch_of(6))
    part = random_part(batch, form)
    chosen = Hard(count, Given(part), skip).sample(batch)
    for i, (ours, offered) in enumerate(
        zip(offers(chosen, batch), offers(part, batch), strict=True)
    ):
        by_similarity = sorted(offered, key=lambda entry: -similarity(batch, part, i, entry[0]))
        assert ours == by_similarity[skip : skip + count]


@pytest.mark.parametrize(("count", "skip"), [(1, 4), (5, 1), (2, 10), (6, 6)])
def test_value_and_gradient_equal_a_loop(count, skip):
    z = naive.embeddings(2, 7)
    rows = torch.cat(z).detach()
    rows = rows / rows.norm(dim=1, keepdim=True)
    number = torch.arange(len(rows), device=DEVICE)
    scores = (rows @ rows.T).masked_fill(number[:, None] % 7 == number % 7, -2)
    chosen = scores.argsort(1, descending=True)[:, skip : skip + count]
    reference = naive.simclr(z, 0.3, chosen)
    ours = ContrastiveLoss(f"hard({count}, skip={skip})", temperature=0.3)(*z)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-12


def test_over_several_pools_the_nearest_of_all_are_passed_over():
    batch = batch_of(6)
    first, second = random_part(batch, "whole"), random_part(batch, "chosen-masked")
    chosen = Hard(4, Given(first, second), 3).sample(batch)
    whole = Hard(7, Given(first, second)).sample(batch)
    assert torch.equal(chosen.choice.columns, whole.choice.columns[:, 3:])
    assert [entries[3:] for entries in offers(whole, batch)] == offers(chosen, batch)


def test_no_skip_is_hard_itself_and_a_queue_is_waited_for():
    for text, other in (
        ("hard(5, skip=0)", "hard(5)"),
        ("hard(num_negatives=3, skip=4, source=queue(size=40))", None),
    ):
        loss_fn = ContrastiveLoss(text, temperature=0.3, seed=1)
        for step in range(3):
            z = naive.embeddings(2, 7, seed=step)
            loss = loss_fn(*z)
            if other is not None:
                assert torch.equal(loss, ContrastiveLoss(other, temperature=0.3)(*z))
            assert (loss == 0) == (other is None and step == 0)
            loss.backward()


def test_a_ragged_batch_uses_what_is_beyond():
    loss_fn = ContrastiveLoss("hard(num_negatives=4, skip=3)", temperature=0.3)
    loss_fn(*naive.embeddings(2, 8))
    z = naive.embeddings(2, 3)
    message = (
        r"hard: a ragged batch offers 4 negatives instead of num_negatives \+ skip=7; those beyond "
        "the nearest 3 are used"
    )
    with pytest.warns(UserWarning, match=message):
        ours = loss_fn(*z)
    assert torch.equal(ours, ContrastiveLoss("hard(1, skip=3)", temperature=0.3)(*z))
    with pytest.warns(UserWarning, match="offers 2 negatives"):
        nothing = loss_fn(*naive.embeddings(2, 2))
    assert nothing == 0
    nothing.backward()  # with its graph


def test_weights_of_the_source_stay_with_their_rows():
    batch = batch_of(6)
    part = random_part(batch, "chosen")
    weight = torch.arange(part.width, dtype=torch.float64, device=DEVICE).expand(12, -1)
    chosen = Hard(2, Given(replace(part, log_weight=weight)), 3).sample(batch)
    whole = Hard(5, Given(replace(part, log_weight=weight))).sample(batch)
    assert torch.equal(chosen.log_weight, whole.log_weight[:, 3:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hard(2, skip=-1)", "hard: skip must be at least 0, got -1"),
        ("hard(2, skip=1.5)", "hard: skip must be an integer, got 1.5"),
        ("hard(2, skip=True)", "hard: skip must be an integer, got True"),
        ("hard(9, skip=4, source=queue(size=12))", r"num_negatives \+ skip=13 is more than the 12"),
    ],
)
def test_bad_arguments(text, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_sampler(text)


def test_a_full_batch_has_to_have_both_together():
    with pytest.raises(ValueError, match=r"num_negatives \+ skip=15 is more than the 14 negatives"):
        ContrastiveLoss("hard(num_negatives=10, skip=5)")(*naive.embeddings(2, 8))
