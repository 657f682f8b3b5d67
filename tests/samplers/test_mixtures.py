"""Mixtures: parents, shares and noise follow their laws."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from mixing import ALL, BOTH, LABELS, SIZE, SOURCES, batch_of, mixtures, sampled, trained
from scipy import stats

from negplug import ContrastiveBatch, make_sampler

CONFIDENCE = 1 - 1e-6


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
