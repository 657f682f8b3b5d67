"""Mixtures: parents, shares and noise follow their laws."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from device import DEVICE
from mixing import ALL, BOTH, SOURCES, batch_of, mixtures, sampled
from pools import columns_of, only
from scipy import stats
from tiers import LABELS, SIZE, trained

from negplug import ContrastiveBatch, make_sampler
from negplug.contract.negatives import enumerated

CONFIDENCE = 1 - 1e-6


@pytest.mark.parametrize("source", SOURCES)
def test_parents_are_among_the_hardest_and_differ(source):
    loss_fn = trained(f"synthetic({BOTH}, source={source})")
    batch, negatives = sampled(loss_fn, naive.embeddings(2, SIZE))
    offered = enumerated(loss_fn.sampler.source(batch), batch.anchors)
    pairs, with_anchor = mixtures(negatives)
    for i, anchor in enumerate(batch.anchors.embeddings):
        allowed = offered.choice.columns[i]
        allowed = allowed if offered.mask is None else allowed[offered.mask[i]]
        order = (offered.rows.embeddings[allowed] @ anchor).argsort(descending=True)
        hardest = offered.rows.embeddings[allowed[order[:4]]]
        for parents in (
            pairs.rows.embeddings[pairs.choice.first[i]],
            pairs.rows.embeddings[pairs.choice.second[i]],
            with_anchor.rows.embeddings[with_anchor.choice.first[i]],
        ):
            assert (parents[:, None] == hardest).all(2).any(1).all()
        assert (pairs.choice.first[i] != pairs.choice.second[i]).all()
        itself = with_anchor.rows.embeddings[with_anchor.choice.second[i]]
        assert torch.equal(itself, anchor.expand(5, -1))


def test_shares_and_pairs_follow_their_distributions():
    # 24 anchors, 400 mixtures each; each statement at 1 − 1e-6.
    text = "synthetic(num_mixed=400, num_mixed_with_anchor=400, num_hardest=5)"
    batch = batch_of(naive.embeddings(2, SIZE))
    pairs, with_anchor = mixtures(make_sampler(text)(batch))
    alpha, beta = (
        part.choice.coefficients[..., n] / part.choice.coefficients.sum(-1)
        for part, n in ((pairs, 0), (with_anchor, 1))
    )
    assert 0 <= alpha.min() < 0.01
    assert 0.99 < alpha.max() <= 1
    assert 0 <= beta.min() < 0.005
    assert 0.495 < beta.max() <= 0.5
    assert stats.kstest(alpha.flatten().cpu().numpy(), "uniform").pvalue > 1e-6
    assert stats.kstest(2 * beta.flatten().cpu().numpy(), "uniform").pvalue > 1e-6
    hardest = only(make_sampler("hard(num_negatives=5)")(batch)).choice.columns
    first, second = (
        (columns[..., None] == hardest[:, None]).long().argmax(-1)
        for columns in (pairs.choice.first, pairs.choice.second)
    )
    ordered = torch.bincount((5 * first + second).flatten(), minlength=25).view(5, 5)
    assert ordered.diagonal().sum() == 0
    seen = ordered[~torch.eye(5, dtype=bool, device=DEVICE)].double()
    expected = seen.sum() / 20
    assert ((seen - expected) ** 2 / expected).sum() < naive.chi_square_bound(20, CONFIDENCE)
    parents = with_anchor.rows.embeddings[with_anchor.choice.first]
    candidates = batch.keys.embeddings[hardest]
    place = (parents[:, :, None] == candidates[:, None]).all(-1).long().argmax(-1)
    seen = torch.bincount(place.flatten(), minlength=5).double()
    expected = seen.sum() / 5
    assert ((seen - expected) ** 2 / expected).sum() < naive.chi_square_bound(5, CONFIDENCE)


def test_the_share_does_not_depend_on_the_pair():
    # Spearman's rank correlation of α with the parents' similarity, 9600 pairs, 1 − 1e-6.
    batch = batch_of(naive.embeddings(2, SIZE))
    (part,) = mixtures(make_sampler("synthetic(num_mixed=400, num_hardest=8)")(batch))
    alpha = part.choice.coefficients[..., 0] / part.choice.coefficients.sum(-1)
    pool = part.rows.embeddings
    similarity = (pool[part.choice.first] * pool[part.choice.second]).sum(-1)
    assert stats.spearmanr(alpha.flatten().cpu(), similarity.flatten().cpu()).pvalue > 1e-6


@pytest.mark.parametrize("sigma", [0.05, 0.5, 4.0])
def test_noisy_rows_are_their_originals_with_gaussian_noise(sigma):
    # Cosine to the original against a simulation in numpy: two-sample Kolmogorov–Smirnov, 1 − 1e-6;
    # the originals uniform: χ².
    size, width, number = 40, 16, 4000
    batch = ContrastiveBatch.from_pairs(
        *naive.embeddings(2, size, width), indexes=torch.arange(size)
    )
    _, noisy = make_sampler(f"synthetic(num_noisy={number}, sigma={sigma})")(batch)
    assert columns_of(noisy) is None
    copies = noisy.rows.embeddings
    assert not copies.requires_grad
    torch.testing.assert_close(
        copies.norm(dim=1),
        torch.ones(number, dtype=torch.float64, device=DEVICE),
        rtol=1e-12,
        atol=0,
    )
    assert torch.equal(noisy.rows.ids, noisy.rows.indexes)
    originals = batch.keys.embeddings[noisy.rows.ids]
    cosine = (copies * originals).sum(1).detach().cpu().numpy()
    random = np.random.default_rng(3)
    noise = random.normal(size=(50_000, width)) * sigma
    noise[:, 0] += 1.0
    simulated = noise[:, 0] / np.linalg.norm(noise, axis=1)
    assert stats.ks_2samp(cosine, simulated).pvalue > 1e-6
    seen = torch.bincount(noisy.rows.ids, minlength=size).double()
    expected = number / size
    assert ((seen - expected) ** 2 / expected).sum() < naive.chi_square_bound(size, CONFIDENCE)
    # No direction is preferred: the mean of the noise is zero in every coordinate.
    across = copies.detach() - torch.from_numpy(cosine).to(DEVICE)[:, None] * originals.detach()
    assert (across.mean(0).abs() < 6 * across.std(0) / number**0.5).all()


def test_a_noisy_row_is_excluded_with_its_original():
    loss_fn = trained("synthetic(num_noisy=200, sigma=0.1, source=filtered(by='labels'))")
    batch, negatives = sampled(loss_fn, naive.embeddings(2, SIZE))
    _, noisy = negatives
    owner = noisy.rows.indexes
    assert torch.equal(noisy.rows.labels, LABELS.to(DEVICE)[owner])
    counts = noisy.counts(batch.anchors)
    for i in range(2 * SIZE):
        others = (owner != i % SIZE) & (LABELS.to(DEVICE)[owner] != LABELS[i % SIZE])
        assert counts[i] == others.sum()


def test_draws_depend_on_the_step_alone():
    text = f"synthetic({ALL})"
    z = naive.embeddings(2, SIZE)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (make_sampler(text)(batch_of(z, step)) for step in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(mixtures(one), mixtures(same), mixtures(other), strict=True):
        assert torch.equal(a.choice.first, b.choice.first)
        assert torch.equal(a.choice.second, b.choice.second)
        assert torch.equal(a.choice.coefficients, b.choice.coefficients)
        parents, others = (p.rows.embeddings[p.choice.first] for p in (a, c))
        assert not torch.equal(parents, others)
        assert not torch.equal(a.choice.coefficients, c.choice.coefficients)
    assert torch.equal(one[-1].rows.embeddings, same[-1].rows.embeddings)
    assert not torch.equal(one[-1].rows.ids, other[-1].rows.ids)
