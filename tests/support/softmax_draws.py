"""Draws from the softmax over what a source offers, and their probabilities by loops."""

from __future__ import annotations

from dataclasses import replace

import naive
import torch
from device import DEVICE
from pools import columns_of
from scipy import stats

from negplug import (
    Columns,
    ContrastiveBatch,
    Draws,
    Negatives,
    NegativeSampler,
    Rows,
    Whole,
)

CONFIDENCE = 1 - 1e-6
ROWS = 23


class Given(NegativeSampler):
    """A source that offers what the test wrote down."""

    def __init__(self, *negatives):
        super().__init__()
        self.negatives = negatives

    def sample(self, batch):
        return self.negatives


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def unit(rows, seed, dtype=torch.float32, width=8):
    z = torch.randn(rows, width, dtype=torch.float64, generator=seeded(seed))
    return torch.nn.functional.normalize(z, dim=1).to(DEVICE, dtype)


def batch_of(size, temperature=0.2, dtype=torch.float32, seed=7):
    views = tuple(z.to(dtype) for z in naive.embeddings(2, size, width=8))
    batch = ContrastiveBatch.from_views(views)
    return batch.within(draws=Draws(seed), temperature=temperature)


def offered(batch, form, dtype=torch.float32):
    """What a source may offer: rows of the anchors' own ids among others, and each row twice."""
    count = len(batch.anchors)
    pool = unit(ROWS, 8, dtype)
    pool[ROWS // 2 + 1 :] = pool[: ROWS // 2]
    ids = torch.cat([batch.anchors.ids, batch.anchors.ids.new_tensor([-1] * count)])
    own = torch.randint(2 * count, (ROWS,), generator=seeded(1)).to(DEVICE)
    whole = Negatives(Rows(pool, ids[own]))
    weight = 2 * torch.randn(count, ROWS, dtype=dtype, generator=seeded(2)).to(DEVICE)
    mask = torch.rand(count, ROWS, generator=seeded(3)).to(DEVICE) < 0.7
    columns = torch.rand(count, ROWS, generator=seeded(4)).argsort(1)[:, :11].to(DEVICE)
    masked = whole.chosen(columns, mask[:, :11], weight[:1, :11])
    elsewhere = whole.rows.with_embeddings(unit(ROWS, 9, dtype))
    return {
        "whole": (whole,),
        "weighted": (replace(whole, log_weight=weight),),
        "masked": (replace(whole, choice=Whole(mask), log_weight=weight[:1]),),
        "chosen": (replace(whole, choice=Columns(columns)),),
        "two parts": (
            replace(whole, log_weight=weight[:, :1]),
            replace(masked, rows=elsewhere),
        ),
    }[form]


def softmax(batch, negatives):
    """Per anchor, the probability of each (pool, column), by loops in float64."""
    logits = [{} for _ in batch.anchors.embeddings]
    for number, part in enumerate(negatives):
        pool, chosen = part.rows.embeddings, columns_of(part)
        similarities = (batch.anchors.embeddings.double() @ pool.double().T).tolist()
        width = len(pool) if chosen is None else chosen.shape[1]
        weights = torch.zeros(1) if part.log_weight is None else part.log_weight
        weights = weights.expand(len(logits), width).tolist()
        for i, name in enumerate(batch.anchors.ids.tolist()):
            for slot in range(width):
                column = slot if chosen is None else int(chosen[i, slot])
                if chosen is None and int(part.rows.ids[column]) == name != -1:
                    continue
                if part.mask is None or part.mask[i, slot]:
                    logit = similarities[i][column] / batch.temperature + weights[i][slot]
                    logits[i][number, column] = logit
    return [dict(zip(row, _softmax(list(row.values())), strict=True)) for row in logits]


def _softmax(logits):
    return torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()


def draws_of(negatives):
    """Per anchor and draw the (pool, column); every draw is of one pool at most."""
    parts = list(negatives)
    assert all(part.estimator == "posterior" for part in parts)
    every = torch.ones_like(parts[0].choice.columns) > 0
    masks = torch.stack([every if part.mask is None else part.mask for part in parts])
    assert (masks.sum(0) <= 1).all()
    pools = masks.long().argmax(0)
    columns = torch.stack([part.choice.columns for part in parts]).gather(0, pools[None])[0]
    rows = zip(masks.any(0).tolist(), pools.tolist(), columns.tolist(), strict=True)
    return [[(n, k) for there, n, k in zip(*row, strict=True) if there] for row in rows]


def chi_square(pairs):
    """Insist that each Counter follows its probabilities; rare cells are taken together."""
    total, free = 0.0, 0
    for counts, probability in pairs:
        assert counts.keys() <= probability.keys()
        number = counts.total()
        expected = {cell: number * p for cell, p in probability.items()}
        rare = [cell for cell in expected if expected[cell] < 5]
        cells = [(counts[cell], expected[cell]) for cell in expected if cell not in rare]
        seldom = sum(counts[cell] for cell in rare), sum(expected[cell] for cell in rare)
        if seldom[1] >= 5:
            cells.append(seldom)
        else:
            # Too few for χ², but so many of them, or more, are improbable too.
            assert seldom[0] == 0 or stats.poisson.sf(seldom[0] - 1, seldom[1]) > 1 - CONFIDENCE
        total += sum((found - wanted) ** 2 / wanted for found, wanted in cells)
        free += len(cells) - 1
    assert free > 0
    assert total < naive.chi_square_bound(free + 1, CONFIDENCE)
