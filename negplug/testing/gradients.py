"""Checks of the arithmetic: gradients against a naive computation, small temperatures, types."""

from __future__ import annotations

import torch
from torch import Tensor

from negplug.contract.ids import comparable_ids
from negplug.contract.negatives import Columns, Mixtures, Negatives
from negplug.testing.subject import TEMPERATURE, Step, Subject, call, close, evaluate, train


def the_loss_is_that_of_the_negatives(subject: Subject) -> None:
    """Loss and gradient equal a naive computation in float64 on the negatives returned.

    An evaluation between forward and backward pass changes nothing.
    """
    loss = subject.loss()
    train(subject, loss, range(3))
    for number in (3, 4):
        step = call(subject, loss, number)
        value = _naive_loss(step)
        wanted = torch.autograd.grad(value, step.views, retain_graph=True, allow_unused=True)
        evaluate(subject, loss, 5)
        close(loss, step)
        assert step.gradient is not None
        _close("the loss", step.loss, value)
        dense = [
            torch.zeros_like(view) if gradient is None else gradient
            for view, gradient in zip(step.views, wanted, strict=True)
        ]
        _close("its gradient by the views", step.gradient, torch.stack(dense))


def keys_of_the_batch_carry_their_gradient(subject: Subject) -> None:
    """A negative that is a key of this batch passes its gradient on to that key.

    Mixtures of rows may be constants.
    """
    loss = subject.loss()
    train(subject, loss, range(3))
    step = call(subject, loss, 3)
    keys = step.batch.keys.embeddings
    for part in step.negatives:
        pool = part.rows.embeddings
        if isinstance(part.choice, Mixtures):
            continue
        row, key = (pool[:, None] == keys).all(2).nonzero().unbind(1)
        if not len(row):
            continue
        weight = torch.linspace(1, 2, len(row) * keys.shape[1]).to(keys).view(len(row), -1)
        wanted = torch.zeros_like(keys).index_add(0, key, weight)
        found = None
        if pool.requires_grad:
            total = (pool[row] * weight).sum()
            (found,) = torch.autograd.grad(total, keys, retain_graph=True, allow_unused=True)
        assert found is not None, "the pool holds keys of the batch, but detached from them"
        _close("the gradient by the keys", found, wanted)


def gradients_are_finite_at_any_temperature(subject: Subject) -> None:
    """Loss and gradient are finite in float32 down to a temperature of 0.001."""
    for temperature in (1.0, 0.01, 1e-3):
        loss = subject.loss(temperature=temperature)
        for number, step in enumerate(train(subject, loss, range(4), dtype=torch.float32)):
            _finite(step, f"step {number} at temperature {temperature}")


def embeddings_may_have_any_floating_type(subject: Subject) -> None:
    """Embeddings of each floating type are served, also when the type changes on the way."""
    types = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    for dtype in types:
        for number, step in enumerate(train(subject, subject.loss(), range(3), dtype=dtype)):
            _finite(step, f"step {number} in {dtype}")
    loss = subject.loss()
    for number, dtype in enumerate((*types, *types)):
        (step,) = train(subject, loss, [number], dtype=dtype)
        _finite(step, f"step {number} in {dtype}, after other types")


def _naive_loss(step: Step) -> Tensor:
    """The mean loss, one anchor at a time, every negative as a row of its own."""
    batch = step.batch
    losses = []
    for i, anchor in enumerate(batch.anchors.embeddings):
        pulled = [batch.keys.embeddings[batch.positives[i, :1]]]
        for part in step.negatives:
            if part.attracted is not None:
                pulled.append(part.rows.embeddings[part.attracted[i][part.attracted[i] >= 0]])
        positives = torch.cat(pulled) @ anchor / TEMPERATURE
        parts = [_logits(part, i, anchor, batch.anchors.ids) for part in step.negatives]
        logits = torch.cat([logits for logits, _ in parts])
        weights = torch.cat([weights for _, weights in parts])
        if not len(logits):
            losses.append(0 * anchor.sum())
        elif step.negatives[0].estimator == "posterior":
            losses.append((weights.exp() * logits).sum() - positives.mean())
        else:
            every = torch.cat([positives, logits + weights])
            losses.append(every.logsumexp(0) - positives.mean())
    return torch.stack(losses).mean()


def _logits(part: Negatives, i: int, anchor: Tensor, anchor_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and log weights of anchor i's negatives in one pool."""
    pool, choice = part.rows.embeddings, part.choice
    chosen = torch.ones(part.width, dtype=torch.bool, device=anchor.device)
    if isinstance(choice, Columns):
        rows = pool[choice.columns[i]]
    elif isinstance(choice, Mixtures):
        one, other = choice.coefficients[i].unbind(1)
        rows = one[:, None] * pool[choice.first[i]] + other[:, None] * pool[choice.second[i]]
    else:
        rows = pool
        chosen = part.rows.ids != comparable_ids(anchor_ids)[i]
    if part.mask is not None:
        chosen = chosen & part.mask[i]
    weight = anchor.new_zeros(())
    if part.log_weight is not None:
        weight = part.log_weight.expand(len(anchor_ids), -1)[i]
    return (rows @ anchor / TEMPERATURE)[chosen], weight.expand(part.width)[chosen]


def _close(what: str, found: Tensor, wanted: Tensor) -> None:
    error, size = float((found - wanted).detach().norm()), float(wanted.detach().norm())
    limit = 1e-9 * max(size, 1e-6)
    assert error <= limit, f"{what} is off by {error:.3g}, its norm is {size:.3g}"


def _finite(step: Step, where: str) -> None:
    assert step.gradient is not None
    assert step.loss.isfinite(), f"{where}: the loss is {step.loss.item()}"
    assert step.gradient.isfinite().all(), f"{where}: the gradient is not finite"
