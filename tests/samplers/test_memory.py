"""Rows of past steps as negatives: exact against loops, and written when a step is over."""

from __future__ import annotations

from collections import deque

import naive
import pytest
import torch
from memories import (
    STATE,
    TAU,
    WIDTH,
    Remembered,
    embed,
    first_in_first_out,
    looped,
    memory,
    train,
    unit,
    written,
)
from pools import only
from resumable import same_state
from torch import nn

from negplug import ContrastiveBatch, ContrastiveLoss, NegativeSampler
from negplug.samplers.queue import Queue
from negplug.samplers.uniform import Uniform


@pytest.mark.parametrize(
    ("expression", "indexed"),
    [("queue(size=13)", True), ("queue(size=13)", False), ("memory_bank(momentum=0.4)", True)],
)
@pytest.mark.parametrize("views", [2, 3])
def test_value_and_gradient_equal_the_loop(expression, indexed, views):
    bank = expression.startswith("memory_bank")
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    ring, slots = deque(maxlen=13), Remembered(0.4)
    generator = torch.Generator().manual_seed(views)
    for step in range(9):
        z = embed(int(torch.randint(1, 5, (), generator=generator)), step, views)
        # Of seven samples, so that an anchor's own past comes up all the time.
        indexes = torch.randperm(7, generator=generator)[: len(z[0])] if indexed else None
        if bank:
            rows, names = list(slots.rows.values()), list(slots.rows)
        else:
            rows, names = [row for row, _ in ring], [index for _, index in ring]
        reference = looped(z, indexes, rows, names)
        ours = loss_fn(*z, indexes=indexes)
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-13)
        gradients = naive.gradients(ours, z)
        expected = naive.gradients(reference, z)
        torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-13)
        ours.backward()
        if bank:
            slots.take_in(z, indexes)
        else:
            known = indexes.repeat(views).tolist() if indexed else [-1] * len(unit(z))
            ring.extend(zip(unit(z), known, strict=True))


@pytest.mark.parametrize("expression", ["queue(size=16)", "memory_bank()"])
def test_nothing_is_written_between_forward_and_backward(expression):
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    indexes = torch.arange(4)
    for step in range(4):
        train(loss_fn, embed(4, step), 4 * (step % 2) + indexes)
    before = memory(loss_fn)
    probe = ContrastiveBatch.from_views(tuple(v.detach() for v in embed(2, 9)), indexes[:2] + 90)
    # Two forward passes before one backward pass, as in gradient caching.
    z, more = embed(4, 10), embed(4, 11)
    first, second = loss_fn(*z, indexes=indexes), loss_fn(*more, indexes=indexes + 4)
    pool = only(loss_fn.sampler(probe)).rows.embeddings
    # Where nothing waits for the device, there may be rows behind that were not written.
    assert torch.equal(pool[: len(before["rows"])], before["rows"])
    assert not pool[len(before["rows"]) :].any()
    reference = sum(
        looped(v, i, before["rows"], before["names"][1].tolist())
        for v, i in ((z, indexes), (more, indexes + 4))
    )
    torch.testing.assert_close(first + second, reference, rtol=1e-11, atol=0)
    both = z + more
    gradients = naive.gradients(first + second, both)
    torch.testing.assert_close(gradients, naive.gradients(reference, both), rtol=1e-10, atol=1e-13)
    (first + second).backward()
    assert not torch.equal(memory(loss_fn)["rows"], before["rows"])


@pytest.mark.parametrize("backend", [None, "torch", "reference"])
def test_a_backward_pass_after_the_queue_has_changed_is_right(backend, monkeypatch):
    if backend:
        monkeypatch.setenv("NEGPLUG_BACKEND", backend)
    loss_fn = ContrastiveLoss("queue(size=8)", temperature=TAU)
    train(loss_fn, embed(4, 0))
    z = embed(4, 1)
    late = loss_fn(*z)
    expected = naive.gradients(looped(z, None, unit(embed(4, 0)), [-1] * 8), z)
    late.backward(retain_graph=True)
    train(loss_fn, embed(4, 2))  # writes the keys of `late` over the rows it was computed from
    torch.testing.assert_close(naive.gradients(late, z), expected)


@pytest.mark.parametrize("expression", ["queue(size=16)", "memory_bank()"])
def test_evaluation_reads_and_does_not_write(expression):
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    views, indexes = embed(4, 0), torch.arange(4)
    train(loss_fn, views, indexes)
    before = loss_fn.state_dict()
    other = embed(4, 1)
    held = written(before[f"sampler.{STATE}"])
    expected = looped(other, indexes, held["rows"], held["names"][1].tolist()).detach()
    with torch.no_grad():
        torch.testing.assert_close(loss_fn(*other, indexes=indexes), expected)
    frozen = [v.detach() for v in other]
    torch.testing.assert_close(loss_fn(*frozen, indexes=indexes), expected)
    assert same_state(loss_fn.state_dict(), before)


class Two(NegativeSampler):
    """Two samplers that read one queue."""

    def __init__(self):
        super().__init__()
        shared = Queue(64)
        self.first = Uniform(2, source=shared)
        self.second = Uniform(3, source=shared)

    def sample(self, batch):
        return *self.first(batch), *self.second(batch)


def test_two_readers_of_one_queue_enqueue_once():
    loss_fn = ContrastiveLoss(Two())
    for step in range(3):
        train(loss_fn, embed(4, step))
    state = loss_fn.state_dict()
    for reader in ("first", "second"):
        rows = written(state[f"sampler.{reader}.source.{STATE}"])["rows"]
        torch.testing.assert_close(rows, torch.cat([unit(embed(4, step)) for step in range(3)]))


@pytest.mark.parametrize("expression", ["queue(size=40)", "memory_bank()"])
def test_two_calls_in_a_step_have_a_memory_each(expression):
    loss_fn = ContrastiveLoss(expression, temperature=TAU)
    for step in range(3):
        losses = []
        for call in range(2):
            views = embed(4, 10 * step + call)
            indexes = torch.arange(4) + 4 * step
            losses.append(loss_fn.contrast(ContrastiveBatch.from_views(tuple(views), indexes)))
        sum(losses).backward()
        loss_fn.end_step()
    for call, name in enumerate(("sampler", "further.0.sampler")):
        views = [embed(4, 10 * step + call) for step in range(3)]
        if expression.startswith("queue"):
            expected = torch.cat([unit(v) for v in views])
        else:
            means = torch.cat([unit(v).view(2, 4, WIDTH).sum(0) for v in views])
            expected = means / means.norm(dim=1, keepdim=True)
        torch.testing.assert_close(memory(loss_fn, name)["rows"], expected)
    assert loss_fn.state_dict()[STATE]["further"] == 1


def test_every_accumulated_batch_counts():
    model = nn.Linear(5, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = ContrastiveLoss("queue(size=40)")
    expected = []
    for step in range(6):
        views = [
            model(x) for x in torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(step))
        ]
        expected.append(unit(views))
        (loss_fn(*views) / 3).backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    rows, _ = first_in_first_out(memory(loss_fn))
    torch.testing.assert_close(rows, torch.cat(expected))


def test_a_call_that_fails_leaves_nothing_behind():
    loss_fn = ContrastiveLoss("hierarchical(queue(size=64), memory_bank())")
    z = naive.embeddings(2, 4)
    indexes = torch.arange(4)
    loss_fn(*z, indexes=indexes).backward()
    before = loss_fn.state_dict()
    with pytest.raises(ValueError, match="needs the data set index"):
        loss_fn(*z)
    loss_fn.end_step()
    after = memory(loss_fn, "sampler.tiers.0")
    assert len(after["rows"]) == len(written(before[f"sampler.tiers.0.{STATE}"])["rows"]) == 8
