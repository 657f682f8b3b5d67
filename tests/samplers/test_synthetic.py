"""``synthetic``: every mixture is the row that it stands for, in value and gradient."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from mixing import ALL, BOTH, SOURCES, WHOLE, materialised, mixtures, sampled
from pools import columns_of, only
from tiers import LABELS, SIZE, TEMPERATURE, trained

from negplug import ContrastiveBatch, ContrastiveLoss, Mixtures, make_sampler
from negplug.contract.ids import comparable_ids
from negplug.contract.negatives import total_counts
from negplug.objectives.logits import negative_logsumexp


@pytest.mark.parametrize("source", SOURCES)
def test_every_logit_is_that_of_the_row_it_stands_for(source):
    loss_fn = trained(f"synthetic({BOTH}, source={source})")
    batch, negatives = sampled(loss_fn, naive.embeddings(2, SIZE))
    parts = mixtures(negatives)
    assert [part.choice.first.shape[1] for part in parts] == [6, 5]
    for part in parts:
        rows = materialised(part)
        assert part.serving(batch.anchors).all()
        for m in range(part.choice.first.shape[1]):
            entry = Mixtures(
                first=part.choice.first[:, m : m + 1],
                second=part.choice.second[:, m : m + 1],
                coefficients=part.choice.coefficients[:, m : m + 1],
            )
            one = replace(part, choice=entry)
            logits = negative_logsumexp(batch, (one,), TEMPERATURE)
            expected = (batch.anchors.embeddings * rows[:, m]).sum(1) / TEMPERATURE
            torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-13)
        mixed = (
            part.choice.coefficients[..., :1] * part.rows.embeddings[part.choice.first]
            + part.choice.coefficients[..., 1:] * part.rows.embeddings[part.choice.second]
        )
        torch.testing.assert_close(
            mixed.norm(dim=-1),
            mixed.new_ones(part.choice.first.shape),
        )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("objective", ["infonce()", "decoupled()"])
def test_value_and_gradient_equal_a_loop_over_constants(source, objective):
    arguments = ALL if source in WHOLE else BOTH
    loss_fn = trained(f"synthetic({arguments}, source={source})", objective=objective)
    z = naive.embeddings(2, SIZE)
    batch, negatives = sampled(loss_fn, z)
    unit = torch.cat(z) / torch.cat(z).norm(dim=1, keepdim=True)
    ids = comparable_ids(batch.anchors.ids)
    losses = []
    for i in range(2 * SIZE):
        push = 0.0
        for part in negatives:
            chosen = columns_of(part)
            if isinstance(part.choice, Mixtures):
                rows, kept = materialised(part)[i], part.serving(batch.anchors)[i]
            elif chosen is None:
                rows, kept = part.rows.embeddings, part.rows.ids != ids[i]
                kept = kept if part.mask is None else kept & part.mask[i]
            else:
                rows = part.rows.embeddings[chosen[i]]
                kept = torch.ones(len(rows), dtype=bool) if part.mask is None else part.mask[i]
            weight = 1.0 if part.log_weight is None else part.log_weight.exp()[i, 0]
            for row in rows[kept]:
                # A key of the batch has a gradient.
                own = (batch.keys.embeddings == row).all(1).nonzero()
                key = unit[int(own[0])] if len(own) else row.detach()
                push = push + weight * torch.exp(unit[i] @ key / TEMPERATURE)
        pull = torch.exp(unit[i] @ unit[(i + SIZE) % (2 * SIZE)] / TEMPERATURE)
        rest = push if objective == "decoupled()" else pull + push
        losses.append(-torch.log(pull / rest))
    reference = torch.stack(losses).mean()
    ours = loss_fn(*z, indexes=torch.arange(SIZE), labels=LABELS)
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(reference, z)) < 1e-11


def test_the_sources_own_negatives_are_left_as_they_are():
    loss_fn = trained(f"synthetic({ALL}, source=queue(size=72))")
    batch, negatives = sampled(loss_fn, naive.embeddings(2, SIZE))
    plain = only(loss_fn.sampler.source(batch))
    assert negatives[0].rows.embeddings is plain.rows.embeddings
    assert columns_of(negatives[0]) is None
    counts = total_counts(negatives, batch.anchors)
    assert counts.max() <= plain.counts(batch.anchors).max() + 18
    # Mixtures of pairs read the queue itself.
    pairs, with_anchor = mixtures(negatives)
    assert pairs.rows.embeddings.data_ptr() == loss_fn.sampler.source.rows.data_ptr()
    # Mixtures with the anchor read 24 anchors and no more rows than are in use.
    assert len(with_anchor.rows) <= 24 + 24 * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.2, 0.01])
def test_half_precision_embeddings_give_a_finite_loss(dtype, temperature):
    loss_fn = ContrastiveLoss(f"synthetic({ALL}, source=queue(size=48))", temperature=temperature)
    for step in range(3):
        z = [v.detach().to(dtype).requires_grad_() for v in naive.embeddings(2, SIZE, seed=step)]
        with torch.autocast("cpu", dtype=dtype):
            loss = loss_fn(*z)
        loss.backward()
        assert loss.isfinite()
        assert all(v.grad.isfinite().all() for v in z)


def test_float32_lengths_are_one_to_rounding():
    z = [view.detach().float() for view in naive.embeddings(2, 64, width=128)]
    batch = ContrastiveBatch.from_views(tuple(z))
    parts = mixtures(
        make_sampler("synthetic(num_mixed=500, num_mixed_with_anchor=500, num_hardest=20)")(batch)
    )
    for part in parts:
        share = part.choice.coefficients.double()
        pool = part.rows.embeddings.double()
        rows = share[..., :1] * pool[part.choice.first] + share[..., 1:] * pool[part.choice.second]
        assert (rows.norm(dim=-1) - 1).abs().max() < 1e-6
