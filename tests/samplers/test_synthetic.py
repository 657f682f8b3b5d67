"""``synthetic``: every mixture is the row that it stands for; the draws follow their laws."""

from __future__ import annotations

import warnings
from dataclasses import replace

import naive
import numpy as np
import pytest
import ranks
import torch
from scipy import stats

from negplug import ContrastiveBatch, ContrastiveLoss, Draws, make_sampler
from negplug.contract.ids import comparable_ids
from negplug.objectives.logits import negative_logsumexp
from negplug.samplers.common.mixtures import _shares

SIZE, TEMPERATURE = 12, 0.3
BOTH = "num_mixed=6, num_mixed_with_anchor=5, num_hardest=4"
ALL = f"{BOTH}, num_noisy=7, sigma=0.2"
SOURCES = [
    "in_batch()",
    "gather()",
    "uniform(num_negatives=9)",
    "uniform(num_negatives=9, correction=True)",
    "uniform(num_negatives=9, shared=True)",
    "filtered(by='labels')",
    "queue(size=72)",
    "hierarchical(uniform(num_negatives=9), queue(size=72))",
]
WHOLE = [SOURCES[n] for n in (0, 1, 4, 5, 6)]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 3, 4])
CONFIDENCE = 1 - 1e-6


def trained(text, steps=3, **arguments):
    loss_fn = ContrastiveLoss(text, temperature=TEMPERATURE, seed=5, **arguments)
    for step in range(steps):
        z = naive.embeddings(2, SIZE, seed=100 + step)
        loss_fn(*z, indexes=100 * step + torch.arange(SIZE), labels=LABELS).backward()
    loss_fn.state_dict()  # applies what is pending
    return loss_fn


def batch_of(z, step=3, **names):
    names = names or {"indexes": torch.arange(len(z[0])), "labels": LABELS}
    batch = ContrastiveBatch.from_views(tuple(z), **names)
    return replace(batch, draws=Draws(5, step))


def sampled(loss_fn, z, **names):
    """The batch of the next step and its negatives, as in an evaluation: nothing is taken in."""
    batch = batch_of([view.detach() for view in z], loss_fn.get_extra_state()["step"], **names)
    return batch, loss_fn.sampler(batch)


def mixtures(negatives):
    return [part for part in negatives.parts() if part.partners is not None]


def materialised(part):
    """[N, M, d]: the mixtures as rows, normalised from the shares before any scaling."""
    share = part.coefficients / part.coefficients.sum(-1, keepdim=True)
    rows = share[..., :1] * part.pool[part.columns] + share[..., 1:] * part.pool[part.partners]
    return rows / rows.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("source", SOURCES)
def test_every_logit_is_that_of_the_row_it_stands_for(source):
    loss_fn = trained(f"synthetic({BOTH}, source={source})")
    batch, negatives = sampled(loss_fn, naive.embeddings(2, SIZE))
    parts = mixtures(negatives)
    assert [part.columns.shape[1] for part in parts] == [6, 5]
    for part in parts:
        rows = materialised(part)
        assert part.mask.all()
        for m in range(part.columns.shape[1]):
            one = replace(
                part,
                columns=part.columns[:, m : m + 1],
                partners=part.partners[:, m : m + 1],
                coefficients=part.coefficients[:, m : m + 1],
                mask=part.mask[:, m : m + 1],
            )
            logits = negative_logsumexp(batch, one, TEMPERATURE)
            expected = (batch.anchors * rows[:, m]).sum(1) / TEMPERATURE
            torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-13)
        mixed = (
            part.coefficients[..., :1] * part.pool[part.columns]
            + part.coefficients[..., 1:] * part.pool[part.partners]
        )
        torch.testing.assert_close(
            mixed.norm(dim=-1), torch.ones(part.columns.shape, dtype=mixed.dtype)
        )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("objective", ["infonce()", "decoupled()"])
def test_value_and_gradient_equal_a_loop_over_constants(source, objective):
    arguments = ALL if source in WHOLE else BOTH
    loss_fn = trained(f"synthetic({arguments}, source={source})", objective=objective)
    z = naive.embeddings(2, SIZE)
    batch, negatives = sampled(loss_fn, z)
    unit = torch.cat(z) / torch.cat(z).norm(dim=1, keepdim=True)
    ids = comparable_ids(batch.anchor_ids)
    losses = []
    for i in range(2 * SIZE):
        push = 0.0
        for part in negatives.parts():
            if part.partners is not None:
                rows, kept = materialised(part)[i], part.mask[i]
            elif part.columns is None:
                rows, kept = part.pool, part.pool_ids != ids[i]
                kept = kept if part.mask is None else kept & part.mask[i]
            else:
                rows = part.pool[part.columns[i]]
                kept = torch.ones(len(rows), dtype=bool) if part.mask is None else part.mask[i]
            weight = 1.0 if part.log_weight is None else part.log_weight.exp()[i, 0]
            for row in rows[kept]:
                own = (batch.keys == row).all(1).nonzero()  # a key of the batch has a gradient
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
    plain = loss_fn.sampler.source(batch)
    assert negatives.pool is plain.pool
    assert negatives.columns is None
    assert negatives.counts(batch.anchor_ids).max() <= plain.counts(batch.anchor_ids).max() + 18
    # Mixtures of pairs read the queue itself.
    assert mixtures(negatives)[0].pool.data_ptr() == loss_fn.sampler.source._rows.data_ptr()
    # Mixtures with the anchor read 24 anchors and no more rows than are in use.
    assert len(mixtures(negatives)[1].pool) <= 24 + 24 * 4


@pytest.mark.parametrize("source", SOURCES)
def test_parents_are_among_the_hardest_and_differ(source):
    loss_fn = trained(f"synthetic({BOTH}, source={source})")
    batch, negatives = sampled(loss_fn, naive.embeddings(2, SIZE))
    offered = loss_fn.sampler.source(batch).enumerated(batch.anchor_ids)
    pairs, with_anchor = mixtures(negatives)
    for i, anchor in enumerate(batch.anchors):
        allowed = offered.columns[i]
        allowed = allowed if offered.mask is None else allowed[offered.mask[i]]
        order = (offered.pool[allowed] @ anchor).argsort(descending=True)
        hardest = offered.pool[allowed[order[:4]]]
        for parents in (
            pairs.pool[pairs.columns[i]],
            pairs.pool[pairs.partners[i]],
            with_anchor.pool[with_anchor.columns[i]],
        ):
            assert (parents[:, None] == hardest).all(2).any(1).all()
        assert (pairs.columns[i] != pairs.partners[i]).all()
        assert torch.equal(with_anchor.pool[with_anchor.partners[i]], anchor.expand(5, -1))


def test_shares_and_pairs_follow_their_distributions():
    # 24 anchors, 400 mixtures each; each statement at 1 − 1e-6.
    text = "synthetic(num_mixed=400, num_mixed_with_anchor=400, num_hardest=5)"
    batch = batch_of(naive.embeddings(2, SIZE))
    pairs, with_anchor = mixtures(make_sampler(text)(batch))
    alpha, beta = (
        part.coefficients[..., n] / part.coefficients.sum(-1)
        for part, n in ((pairs, 0), (with_anchor, 1))
    )
    assert 0 <= alpha.min() < 0.01
    assert 0.99 < alpha.max() <= 1
    assert 0 <= beta.min() < 0.005
    assert 0.495 < beta.max() <= 0.5
    assert stats.kstest(alpha.flatten().numpy(), "uniform").pvalue > 1e-6
    assert stats.kstest(2 * beta.flatten().numpy(), "uniform").pvalue > 1e-6
    hardest = make_sampler("hard(num_negatives=5)")(batch).columns
    first, second = (
        (columns[..., None] == hardest[:, None]).long().argmax(-1)
        for columns in (pairs.columns, pairs.partners)
    )
    ordered = torch.bincount((5 * first + second).flatten(), minlength=25).view(5, 5)
    assert ordered.diagonal().sum() == 0
    seen = ordered[~torch.eye(5, dtype=bool)].double()
    expected = seen.sum() / 20
    assert ((seen - expected) ** 2 / expected).sum() < naive.chi_square_bound(20, CONFIDENCE)
    place = (
        (with_anchor.pool[with_anchor.columns][:, :, None] == batch.keys[hardest][:, None])
        .all(-1)
        .long()
        .argmax(-1)
    )
    seen = torch.bincount(place.flatten(), minlength=5).double()
    expected = seen.sum() / 5
    assert ((seen - expected) ** 2 / expected).sum() < naive.chi_square_bound(5, CONFIDENCE)


def test_the_share_does_not_depend_on_the_pair():
    # Spearman's rank correlation of α with the parents' similarity, 9600 pairs, 1 − 1e-6.
    batch = batch_of(naive.embeddings(2, SIZE))
    (part,) = mixtures(make_sampler("synthetic(num_mixed=400, num_hardest=8)")(batch))
    alpha = part.coefficients[..., 0] / part.coefficients.sum(-1)
    similarity = (part.pool[part.columns] * part.pool[part.partners]).sum(-1)
    assert stats.spearmanr(alpha.flatten(), similarity.flatten()).pvalue > 1e-6


@pytest.mark.parametrize("sigma", [0.05, 0.5, 4.0])
def test_noisy_rows_are_their_originals_with_gaussian_noise(sigma):
    # Cosine to the original against a simulation in numpy: two-sample Kolmogorov–Smirnov, 1 − 1e-6;
    # the originals uniform: χ².
    size, width, number = 40, 16, 4000
    batch = ContrastiveBatch.from_pairs(
        *naive.embeddings(2, size, width), indexes=torch.arange(size)
    )
    noisy = make_sampler(f"synthetic(num_noisy={number}, sigma={sigma})")(batch).others[0]
    assert noisy.columns is None
    assert not noisy.pool.requires_grad
    torch.testing.assert_close(
        noisy.pool.norm(dim=1), torch.ones(number, dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert torch.equal(noisy.pool_ids, noisy.pool_indexes)
    originals = batch.keys[noisy.pool_ids]
    cosine = (noisy.pool * originals).sum(1).detach().numpy()
    random = np.random.default_rng(3)
    noise = random.normal(size=(50_000, width)) * sigma
    noise[:, 0] += 1.0
    simulated = noise[:, 0] / np.linalg.norm(noise, axis=1)
    assert stats.ks_2samp(cosine, simulated).pvalue > 1e-6
    seen = torch.bincount(noisy.pool_ids, minlength=size).double()
    expected = number / size
    assert ((seen - expected) ** 2 / expected).sum() < naive.chi_square_bound(size, CONFIDENCE)
    # No direction is preferred: the mean of the noise is zero in every coordinate.
    across = noisy.pool.detach() - torch.from_numpy(cosine)[:, None] * originals.detach()
    assert (across.mean(0).abs() < 6 * across.std(0) / number**0.5).all()


def test_a_noisy_row_is_excluded_with_its_original():
    loss_fn = trained("synthetic(num_noisy=200, sigma=0.1, source=filtered(by='labels'))")
    batch, negatives = sampled(loss_fn, naive.embeddings(2, SIZE))
    noisy = negatives.others[0]
    owner = noisy.pool_indexes
    assert torch.equal(noisy.pool_labels, LABELS[owner])
    counts = noisy.counts(batch.anchor_ids)
    for i in range(2 * SIZE):
        others = (owner != i % SIZE) & (LABELS[owner] != LABELS[i % SIZE])
        assert counts[i] == others.sum()


def test_draws_depend_on_the_step_alone():
    text = f"synthetic({ALL})"
    z = naive.embeddings(2, SIZE)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (make_sampler(text)(batch_of(z, step)) for step in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(mixtures(one), mixtures(same), mixtures(other), strict=True):
        assert torch.equal(a.columns, b.columns)
        assert torch.equal(a.partners, b.partners)
        assert torch.equal(a.coefficients, b.coefficients)
        assert not torch.equal(a.pool[a.columns], c.pool[c.columns])
        assert not torch.equal(a.coefficients, c.coefficients)
    assert torch.equal(one.others[-1].pool, same.others[-1].pool)
    assert not torch.equal(one.others[-1].pool_ids, other.others[-1].pool_ids)


def test_an_empty_queue_yields_nothing_and_a_filling_one_what_it_can():
    loss_fn = ContrastiveLoss(f"synthetic({ALL}, source=queue(size=96))", seed=5)
    z = naive.embeddings(2, SIZE)
    assert sampled(loss_fn, z)[1].others == ()
    assert loss_fn(*z).item() == 0.0
    small = ContrastiveLoss(
        "synthetic(num_mixed=3, num_hardest=72, source=queue(size=72))", temperature=0.2, seed=5
    )
    for _ in range(3):
        small(*z).backward()
    assert small(*naive.embeddings(2, SIZE, seed=1)).isfinite()


def ragged(sizes, ids):
    """A batch whose anchors have few negatives."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(sizes, 8, dtype=torch.float64, generator=generator)
    return ContrastiveBatch.from_ids(
        torch.nn.functional.normalize(z, dim=1).requires_grad_(), torch.tensor(ids), lasting=True
    )


def test_anchors_with_few_negatives_get_the_mixtures_that_exist():
    # Anchors of class 0 have one negative, that of class 1 has three.
    batch = ragged(4, [0, 0, 0, 1])
    with torch.no_grad():
        negatives = make_sampler(f"synthetic({BOTH})")(replace(batch))
    pairs, with_anchor = mixtures(negatives)
    assert pairs.counts(batch.anchor_ids).tolist() == [0, 0, 0, 6]
    assert with_anchor.counts(batch.anchor_ids).tolist() == [5, 5, 5, 5]
    assert pairs.coefficients.isfinite().all()
    total = negative_logsumexp(batch, negatives, 0.1)
    (gradient,) = torch.autograd.grad(total.sum(), batch.anchors)
    assert total.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("source", ["in_batch()", "gather()", "hard(num_negatives=6)"])
def test_a_batch_without_negatives_has_a_finite_gradient(source):
    arguments = ALL if source != "hard(num_negatives=6)" else BOTH
    loss_fn = ContrastiveLoss(f"synthetic({arguments}, source={source})", seed=5)
    loss_fn(*naive.embeddings(2, SIZE)).backward()
    z = naive.embeddings(2, 1)
    with torch.no_grad():
        batch = ContrastiveBatch.from_views(tuple(z))
    negatives = make_sampler("synthetic(num_noisy=3, sigma=1.0)")(batch)
    assert (negatives.counts(batch.anchor_ids) == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # hard: a ragged batch
        loss = loss_fn(*z)
    assert loss == 0
    assert (naive.gradients(loss, z) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opposite_parents_stay_finite(dtype):
    direction = torch.nn.functional.normalize(torch.randn(1, 8, dtype=dtype), dim=1)
    anchor = torch.zeros(1, 8, dtype=dtype).index_fill_(1, torch.tensor([0]), 1.0)
    rows = torch.cat([anchor, direction, -direction])
    batch = ContrastiveBatch.from_ids(rows, torch.tensor([0, 1, 2]), lasting=True)
    negatives = make_sampler("synthetic(num_mixed=20000, num_hardest=2)")(batch)
    (part,) = mixtures(negatives)
    mixed = (
        part.coefficients[0, :, :1] * part.pool[part.columns[0]]
        + part.coefficients[0, :, 1:] * part.pool[part.partners[0]]
    )
    assert part.coefficients.isfinite().all()
    assert mixed.norm(dim=1).max() < 1.001
    assert mixed.norm(dim=1).median() > 0.999
    # The middle itself, which no draw is sure to hit.
    assert _shares(torch.tensor([[0.5]], dtype=dtype), torch.tensor([[-1.0]])).isfinite().all()


@pytest.mark.parametrize(
    "chooser",
    [
        "uniform(num_negatives=3, source={})",
        "hard(num_negatives=3, source={})",
        "filtered(similarity=0.9, source={})",
        "synthetic(num_mixed=2, num_hardest=3, source={})",
        "synthetic(num_noisy=2, sigma=0.1, source={})",
    ],
)
def test_a_chooser_over_mixtures_is_refused(chooser):
    sampler = make_sampler(chooser.format(f"synthetic({BOTH})"))
    with pytest.raises(ValueError, match=r"make synthetic\(…\) the outermost sampler"):
        sampler(batch_of(naive.embeddings(2, SIZE)))


def test_enumeration_of_mixtures_is_refused():
    batch = batch_of(naive.embeddings(2, SIZE))
    with pytest.raises(ValueError, match=r"make synthetic\(…\) the outermost sampler"):
        make_sampler(f"synthetic({BOTH})")(batch).enumerated(batch.anchor_ids)


@pytest.mark.parametrize("source", ["uniform(num_negatives=9)", SOURCES[-1]])
def test_noise_on_what_each_anchor_chose_is_refused(source):
    sampler = make_sampler(f"synthetic(num_noisy=3, sigma=0.1, source={source})")
    with pytest.raises(ValueError, match="num_noisy needs a source that is one whole pool"):
        sampler(batch_of(naive.embeddings(2, SIZE)))


def test_more_hard_ones_than_a_full_batch_has_is_an_error_and_a_ragged_one_uses_all():
    z = naive.embeddings(2, SIZE)
    with pytest.raises(ValueError, match=r"num_hardest=23 is more than the 22 negatives"):
        ContrastiveLoss("synthetic(num_mixed=3, num_hardest=23)")(*z)
    loss_fn = ContrastiveLoss("synthetic(num_mixed=3, num_hardest=22)", seed=5)
    loss_fn(*z)
    batch, negatives = sampled(loss_fn, naive.embeddings(2, 3), indexes=torch.arange(3))
    (part,) = mixtures(negatives)
    assert part.counts(batch.anchor_ids).tolist() == [3] * 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ("", ValueError, "nothing is asked for"),
        ("num_mixed=3", ValueError, "num_mixed_with_anchor needs num_hardest; give num_hardest="),
        ("num_mixed_with_anchor=3", ValueError, "needs num_hardest"),
        ("num_mixed=3, num_hardest=1", ValueError, "num_hardest must be at least 2, got 1"),
        ("num_mixed=3, num_hardest=2.5", TypeError, "num_hardest must be an integer, got 2.5"),
        ("num_mixed=-1, num_hardest=4", ValueError, "num_mixed must be at least 0, got -1"),
        ("num_mixed=True, num_hardest=4", TypeError, "num_mixed must be an integer, got True"),
        ("num_noisy=3", ValueError, "num_noisy needs sigma; give sigma="),
        ("num_noisy=3, sigma=0", ValueError, "sigma must be above 0, got 0"),
        ("num_noisy=3, sigma=-1", ValueError, "sigma must be in"),
        ("num_noisy=3, sigma='a'", TypeError, "sigma must be a number, got 'a'"),
        ("num_noisy=3, sigma=1, num_hardest=4", ValueError, "num_hardest=4 is for"),
        ("num_mixed=3, num_hardest=4, sigma=1", ValueError, "sigma=1 is for num_noisy"),
        ("num_mixed=3, num_hardest=4, source=5", TypeError, "source must be a sampler, got 5"),
        (
            "num_mixed=3, num_hardest=9, source=queue(size=8)",
            ValueError,
            "num_hardest=9 is more than the 8 rows that",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make_sampler(f"synthetic({arguments})")


def test_most_counts_what_is_made():
    assert make_sampler(f"synthetic({ALL}, source=queue(size=30))").most == 30 + 6 + 5 + 7
    assert make_sampler(f"synthetic({ALL})").most is None


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
        share = part.coefficients.double()
        pool = part.pool.double()
        rows = share[..., :1] * pool[part.columns] + share[..., 1:] * pool[part.partners]
        assert (rows.norm(dim=-1) - 1).abs().max() < 1e-6


def of_this_rank(rank, world, source):
    loss_fn = ContrastiveLoss(f"synthetic({ALL}, source={source})", temperature=0.2, seed=5)
    found = []
    for step in range(3):
        z = naive.embeddings(2, SIZE - 3 * rank, seed=10 * step + rank)
        loss = loss_fn(*z)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, z)]))
    loss_fn.state_dict()  # applies what is pending
    source = loss_fn.sampler.source
    return found, source._rows if source.remembers else torch.empty(0)


@pytest.mark.parametrize("source", ["in_batch()", "gather()", "queue(size=96)"])
def test_two_ranks_train(source):
    (first, rows), (second, others) = ranks.run(of_this_rank, 2, source)
    for one, other in zip(first, second, strict=True):
        assert one.isfinite().all()
        assert other.isfinite().all()
    assert torch.equal(rows, others)
    if source == "queue(size=96)":
        assert first[0].abs().max() == 0  # the queue is empty in the first step
    assert first[2].abs().max() > 0
