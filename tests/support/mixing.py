"""Mixtures of ``synthetic`` as rows of their own, and batches to mix in."""

from __future__ import annotations

import torch
from tiers import LABELS

from negplug import ContrastiveBatch, Draws, Mixtures

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


def batch_of(z, step=3, **names):
    names = names or {"indexes": torch.arange(len(z[0])), "labels": LABELS}
    batch = ContrastiveBatch.from_views(tuple(z), **names)
    return batch.within(draws=Draws(5, step))


def sampled(loss_fn, z, **names):
    """The batch of the next step and its negatives, as in an evaluation: nothing is taken in."""
    batch = batch_of([view.detach() for view in z], loss_fn.get_extra_state()["step"], **names)
    return batch, loss_fn.sampler(batch)


def mixtures(negatives):
    return [part for part in negatives if isinstance(part.choice, Mixtures)]


def materialised(part):
    """[N, M, d]: the mixtures as rows, normalised from the shares before any scaling."""
    share = part.choice.coefficients / part.choice.coefficients.sum(-1, keepdim=True)
    pool = part.rows.embeddings
    rows = share[..., :1] * pool[part.choice.first] + share[..., 1:] * pool[part.choice.second]
    return rows / rows.norm(dim=-1, keepdim=True)
