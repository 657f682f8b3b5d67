"""Memories of past steps: steps of a plain loop, and what a memory should hold, by loops."""

from __future__ import annotations

import naive
import torch

from negplug import ContrastiveBatch, ContrastiveLoss

WIDTH = 6
TAU = 0.3
STATE = "_extra_state"


def embed(size, seed, views=2, width=WIDTH, dtype=torch.float64):
    return [
        v.detach().to(dtype).requires_grad_() for v in naive.embeddings(views, size, width, seed)
    ]


def unit(views):
    """The keys of a step, view after view, as the formulas have them."""
    rows = torch.cat([v.detach() for v in views])
    return rows / rows.norm(dim=1, keepdim=True)


def train(loss_fn, views, indexes=None, labels=None):
    """One training step of a plain loop; the loss before it."""
    loss = loss_fn(*views, indexes=indexes, labels=labels)
    loss.backward()
    return loss.detach()


def memory(loss_fn, name="sampler"):
    """What a loss's memory holds, its pending keys included."""
    return loss_fn.state_dict()[f"{name}.{STATE}"]


def first_in_first_out(state):
    """Rows and names of a queue, oldest first."""
    full = len(state["rows"]) == state["settings"]["size"]
    turn = -state["next"] if full else 0
    return state["rows"].roll(turn, 0), state["names"].roll(turn, 1)


def looped(views, indexes, rows, row_indexes, temperature=TAU):
    """Mean over all anchors of −log Σ_p e^{s_p} / (Σ_p e^{s_p} + Σ_j e^{s_j}), j of the memory."""
    z = torch.cat(views)
    z = z / z.norm(dim=1, keepdim=True)
    size, total = len(views[0]), 0.0
    for i in range(len(z)):
        positives = [k for k in range(len(z)) if k != i and k % size == i % size]
        pull = sum(torch.exp(z[i] @ z[k] / temperature) for k in positives)
        push = torch.zeros((), dtype=z.dtype)
        for row, index in zip(rows, row_indexes, strict=True):
            if indexes is None or index == -1 or index != int(indexes[i % size]):
                push = push + torch.exp(z[i] @ row / temperature)
        total = total - torch.log(pull / (pull + push))
    return total / len(z)


class Remembered:
    """The memory bank as its formula: one row per index in a dict."""

    def __init__(self, momentum):
        self.momentum = momentum
        self.rows = {}

    def take_in(self, views, indexes):
        keys, names = unit(views), indexes.repeat(len(views)).tolist()
        for index in set(names):
            mean = sum(keys[k] for k in range(len(keys)) if names[k] == index)
            mean = mean / mean.norm()
            if index in self.rows:
                mean = self.momentum * self.rows[index] + (1 - self.momentum) * mean
            self.rows[index] = mean / mean.norm()


def trained(expression, steps=3):
    loss_fn = ContrastiveLoss(expression, seed=4)
    for step in range(steps):
        train(loss_fn, embed(3, step), torch.arange(3) + step)
    return loss_fn


def two_calls(expression):
    loss_fn = ContrastiveLoss(expression)
    batches = [ContrastiveBatch.from_views(tuple(embed(3, seed))) for seed in range(2)]
    sum(loss_fn.contrast(batch) for batch in batches).backward()
    loss_fn.end_step()
    return loss_fn
