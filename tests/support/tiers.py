"""The union of tiers, by loops over their rows."""

from __future__ import annotations

from dataclasses import replace

import naive
import torch

from negplug import ContrastiveBatch, ContrastiveLoss, Draws
from negplug.contract.ids import comparable_ids

SIZE, TEMPERATURE = 12, 0.3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 3, 4])


def trained(text, steps=3, **arguments):
    """A loss after some steps, whose memories hold what these left."""
    loss_fn = ContrastiveLoss(text, temperature=TEMPERATURE, seed=5, **arguments)
    for step in range(steps):
        z = naive.embeddings(2, SIZE, seed=100 + step)
        loss_fn(*z, indexes=100 * step + torch.arange(SIZE), labels=LABELS).backward()
    loss_fn.state_dict()  # applies what is pending
    return loss_fn


def batch_of(loss_fn, z):
    """The batch of the next step, as in an evaluation: no memory takes it in."""
    z = tuple(view.detach() for view in z)
    batch = ContrastiveBatch.from_views(z, indexes=torch.arange(SIZE), labels=LABELS)
    return replace(batch, draws=Draws(5, loss_fn.get_extra_state()["step"]))


def rows_of(negatives, batch):
    """For each anchor the rows of its negatives, with repeats, as (pool, column)."""
    ids = comparable_ids(batch.anchor_ids)
    rows = [[] for _ in ids]
    for part in negatives.parts():
        for i in range(len(ids)):
            if part.columns is None:
                slots = [(k, k) for k in range(len(part.pool)) if part.pool_ids[k] != ids[i]]
            else:
                slots = list(enumerate(part.columns[i].tolist()))
            kept = [k for m, k in slots if part.mask is None or part.mask[i, m]]
            rows[i] += [(id(part.pool), k) for k in kept]
    return rows


def naive_loss(z, chosen, pools):
    """InfoNCE with a set of (pool, column) for each anchor; the batch's own pool is None."""
    unit = torch.cat(z) / torch.cat(z).norm(dim=1, keepdim=True)
    losses = []
    for i, rows in enumerate(chosen):
        keys = [unit[k] if pools[p] is None else pools[p][k] for p, k in rows]
        push = sum(torch.exp(unit[i] @ key / TEMPERATURE) for key in keys)
        pull = torch.exp(unit[i] @ unit[(i + SIZE) % (2 * SIZE)] / TEMPERATURE)
        losses.append(-torch.log(pull / (pull + push)))
    return torch.stack(losses).mean()
