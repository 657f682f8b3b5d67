"""The expected logit of draws, against a loop: weights, masks, layouts, gradients."""

import pytest
import torch
from torch.nn.functional import normalize

from negplug import ContrastiveBatch, Negatives, Rows, Whole
from negplug.objectives.logits.posterior import expected_logit

ANCHORS, ROWS, WIDTH, TAU = 6, 9, 4, 0.2


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, WIDTH, dtype=torch.float64, generator=generator))


def symmetric(anchors, ids):
    """A batch whose anchors are its keys, without positives."""
    keys = Rows(anchors, ids, name="keys")
    return ContrastiveBatch(keys, keys, torch.full((ANCHORS, 1), -1))


def posterior(pool, kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    shape = (ANCHORS, len(pool))
    mask = torch.rand(shape, generator=generator) < 0.5
    mask[2] = False
    weight = torch.randn(shape, **draw)
    if kind == "junk":
        junk = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e300]).to(weight)
        weight[~mask] = junk.repeat(99)[: int((~mask).sum())]
    elif kind == "tiny":
        weight[:, ::2] -= 1e4
    elif kind == "dropped":
        weight[~mask] = -torch.inf
    elif kind == "one for each row of the pool":
        weight = weight[:1]
    elif kind == "one for each anchor":
        weight = weight[:, :1]
    elif kind == "transposed":
        weight, mask = weight.T.contiguous().T, mask.T.contiguous().T
    weight = None if kind == "none" else weight
    mask = None if kind in ("no mask", "dropped") else mask
    return Negatives(pool, Whole(mask), weight, estimator="posterior")


def naive(batch, part):
    """Σ_j w_ij ⟨a_i, k_j⟩ and the number of draws of any weight, one pair at a time."""
    totals, numbers = [], []
    for i, anchor in enumerate(batch.anchors.embeddings):
        total, number = 0.0 * anchor.sum(), 0
        for j, row in enumerate(part.rows.embeddings):
            known = batch.anchors.ids[i] != -1
            if known and batch.anchors.ids[i] == part.rows.ids[j]:
                continue
            if part.mask is not None and not part.mask[i, j]:
                continue
            weight = 1.0
            if part.log_weight is not None:
                weight = part.log_weight.expand(ANCHORS, len(part.rows))[i, j].exp()
            total, number = total + weight * (anchor @ row), number + bool(weight)
        totals.append(total)
        numbers.append(number)
    return torch.stack(totals), torch.tensor(numbers)


KINDS = [
    "plain",
    "junk",
    "tiny",
    "dropped",
    "none",
    "no mask",
    "transposed",
    "one for each row of the pool",
    "one for each anchor",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_pool_equals_a_loop(kind):
    anchors, pool = rows(ANCHORS, 1).requires_grad_(), rows(ROWS, 2).requires_grad_()
    batch = symmetric(anchors, torch.tensor([0, 1, 2, 3, -1, 1]))
    part = posterior(Rows(pool, torch.tensor([5, 1, 1, -1, -1, 0, 3, 7, 8])), kind)
    found = expected_logit(batch, [part], TAU)
    total, number = naive(batch, part)
    if kind != "tiny":
        assert torch.equal(part.counts(batch.anchors), number)
    drawn = number > 0
    wanted = (total / TAU).masked_fill(~drawn, -torch.inf)
    torch.testing.assert_close(found, wanted)
    assert drawn.all() == (kind == "no mask")
    upstream = torch.linspace(-1, 2, ANCHORS, dtype=torch.float64)
    leaves = (anchors, pool)
    wanted = torch.autograd.grad(total[drawn] / TAU, leaves, upstream[drawn])
    for gradient, other in zip(
        torch.autograd.grad(found[drawn], leaves, upstream[drawn]), wanted, strict=True
    ):
        torch.testing.assert_close(gradient, other)


def test_anchors_that_are_the_pool_get_both_gradients():
    anchors = rows(ANCHORS, 3).requires_grad_()
    batch = symmetric(anchors, torch.arange(ANCHORS))
    part = posterior(batch.keys, "no mask")
    total, _ = naive(batch, part)
    (found,) = torch.autograd.grad(expected_logit(batch, [part], TAU).sum(), anchors)
    (wanted,) = torch.autograd.grad(total.sum() / TAU, anchors)
    torch.testing.assert_close(found, wanted)
